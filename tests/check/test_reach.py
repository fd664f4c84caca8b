"""The controller connects to a member that asks for it: what no rule of the machine itself shows is found."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.check import lab
from tests.checks import Check, beginning, by_description
from tests.mesh import NODE, ROOT, VM, Mesh, mesh
from tests.proxy_support import REAL

TEXT = "peers can connect to this machine"


@pytest.fixture(name="vm", scope="module")
def vm_fixture() -> Iterator[Mesh]:
    with lab.member() as found:
        yield found


def told_by(vm: Mesh) -> str:
    return vm.meshexp("check", "-o", "json").stdout


def reach(vm: Mesh) -> Check:
    return beginning(told_by(vm), TEXT)


@pytest.mark.parametrize(
    ("verdict", "came", "hint"),
    [("drop", "no connection within", "security group"), ("reject with tcp reset", "connection refused", "ss -ltn")],
    ids=["dropped", "refused"],
)
def test_a_firewall_before_the_machine(vm: Mesh, verdict: str, came: str, hint: str) -> None:
    lab.security_group(vm, verdict)
    vm.wait(lambda: came in reach(vm).get("error", ""))
    everything = by_description(told_by(vm))
    found = everything[TEXT]
    assert (found["result"], found["code"]) == ("error", "inbound-unreached") and hint in found["remedy"], found
    assert f"the controller to {VM} port 4143" in found["error"]
    assert everything["peers reach port 4143"]["result"] == "success", "no rule of this machine's own is in the way"
    vm.node.run("nft", "delete table inet cloud")
    vm.wait(lambda: reach(vm)["result"] == "success")
    assert f"the controller connected from {NODE} to {VM} port 4143" in reach(vm)["description"]


ANSWERS: dict[str, tuple[list[Any], str]] = {
    "an older one": ([404, {"code": "unknown-call", "message": "there is no POST of this path"}], "is older than this program"),
    "one that will not": ([429, {"code": "too-soon", "message": "tested a moment ago"}], "tested a moment ago"),
    "one that has a fault": ([500, {"code": "internal", "message": "see its log"}], "cannot be asked"),
    "one of another kind": ([200, {"address": VM, "port": 4143, "outcome": "by-magic"}], "not understood"),
    "one with the wrong body": ([200, ["\u001b[31m"]], "not understood"),
    "one without words": ([200, {"address": VM, "port": 4143, "outcome": "timed-out", "message": ""}], "no connection in time"),
    "one of many words": (
        [200, {"address": VM, "port": 4143, "outcome": "wrong-name", "message": "\u001b[31m" + 9999 * "x"}],
        290 * "x" + " (",
    ),
}


@pytest.fixture(name="told", scope="module")
def told_fixture() -> Iterator[Mesh]:
    with mesh() as found:
        (found.folder / "told").write_text(json.dumps({"hold": 1.0}))
        words = (sys.executable, "-m", "tests.hostile_controller", str(found.folder / "certs"), NODE, str(found.folder / "told"))
        found.start("hostile", found.node, *words, env={"PYTHONPATH": str(ROOT)})
        found.start_daemon()
        found.wait_ready()
        yield found


@pytest.mark.parametrize("name", ANSWERS)
def test_what_a_controller_may_answer(told: Mesh, name: str) -> None:
    answer, words = ANSWERS[name]
    fresh = told.folder / "told.new"
    fresh.write_text(json.dumps({"hold": 1.0, "reach": answer}))
    fresh.replace(told.folder / "told")
    found = reach(told)
    if answer[0] == 200 and isinstance(answer[1], dict) and answer[1]["outcome"] != "by-magic":
        assert found["code"] == "inbound-unreached" and words.rstrip(" (") in found["error"], found
        assert "\u001b" not in told.meshexp("check").stdout and len(found["error"]) < 500
    else:
        assert found["result"] == "skipped" and words in found["reason"], found


@pytest.mark.skipif(REAL is None, reason="linkerd2-proxy is not on PATH")
def test_linkerd_s_own_proxy_proves_its_name() -> None:
    with lab.member(proxy={"path": str(REAL)}) as vm:
        assert f"the controller connected from {NODE} to {VM} port 4143" in reach(vm)["description"]


def test_without_the_controller_it_is_skipped(vm: Mesh) -> None:
    vm.stop("controller")
    found = reach(vm)
    assert found["result"] == "skipped" and "the controller cannot be asked" in found["reason"], found
    vm.start_controller()
