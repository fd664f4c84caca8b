"""One wrong edit of the cluster's trust anchors, as a controller tells it to a member: it costs nothing, and needs no hand."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.controller_support import Authority
from tests.daemon_support import ruleset
from tests.mesh import NODE, ROOT, Mesh, mesh


@pytest.fixture(name="vm", scope="module")
def vm_fixture() -> Iterator[Mesh]:
    with mesh() as found:
        tell(found, own(found))
        argv = (sys.executable, "-m", "tests.hostile_controller", str(found.folder / "certs"), NODE, str(found.folder / "told"))
        found.start("hostile", found.node, *argv, env={"PYTHONPATH": str(ROOT)})
        found.start_daemon()
        found.wait_ready()
        yield found


def own(vm: Mesh) -> str:
    return (vm.folder / "certs/ca.crt").read_text()


def tell(vm: Mesh, pem: str, **more: Any) -> None:
    fields = {"facts": {"trust_anchors_pem": pem}, "version": f"v{hash(pem)}", "lease_seconds": 9, **more}
    fresh = vm.folder / "told.new"
    fresh.write_text(json.dumps({"hold": 0.3, "fields": fields}))
    fresh.replace(vm.folder / "told")


def is_well(vm: Mesh) -> bool:
    return bool(vm.status()["ready"]) and vm.condition("Registration")["problem"] is None


@pytest.mark.parametrize("restarted", [False, True])
def test_a_wrong_edit_is_told_and_the_member_goes_on(vm: Mesh, restarted: bool, tmp_path: Path) -> None:
    rules, proxy = ruleset(vm), vm.proxy_pid()
    wrong = Path(Authority(tmp_path, "wrong").anchors).read_text()
    tell(vm, wrong)
    vm.wait_problem("Anchors", "anchors-unproven")
    if restarted:
        vm.stop("harness", signal.SIGKILL)
        vm.start_daemon()
        vm.wait(lambda: vm.status().get("pid") == vm.processes["harness"].pid and is_well(vm))
        vm.wait_problem("Anchors", "anchors-unproven")
        proxy = vm.proxy_pid()
    vm.wait(lambda: is_well(vm))
    found = json.loads(vm.meshexp("anchors", "-o", "json").stdout)
    assert found["problem"] == "anchors-unproven" and found["told"][0]["subject"] == "CN=wrong"
    assert found["in_force"] == found["file"] != found["told"]
    tell(vm, own(vm))
    vm.wait(lambda: not vm.condition("Anchors"))
    vm.wait(lambda: is_well(vm))
    assert ruleset(vm) == rules and vm.proxy_pid() == proxy


def test_pinned_waits_for_a_hand(vm: Mesh, tmp_path: Path) -> None:
    """`accept` is read by the daemon that runs, without a reload."""
    vm.configure(controller={
        "address": f"{NODE}:8081", "trust_anchors": str(vm.folder / "pinned.pem"), "anchors": "pinned",
    })  # fmt: skip
    (vm.folder / "pinned.pem").write_text(own(vm))
    vm.processes["harness"].send_signal(signal.SIGHUP)
    both = own(vm) + Path(Authority(tmp_path, "new").anchors).read_text()
    tell(vm, both)
    vm.wait_problem("Anchors", "anchors-pinned")
    command = vm.condition("Anchors")["hint"].partition("`meshexp anchors accept ")[2].partition("`")[0].split()
    assert len(command) == 2
    assert vm.meshexp("anchors", "accept", "ab" * 32).returncode == 64
    done = vm.meshexp("anchors", "accept", *command)
    assert done.returncode == 0, done.stderr
    vm.wait(lambda: not vm.condition("Anchors"))
    assert len(vm.status()["trust_anchors"]) == 2
