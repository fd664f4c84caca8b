"""Each attack of a hostile controller on one member, one after another: the machine is as before, and stays a member."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.hostile_answers import ATTACKS, REFUSED, WAITS
from tests.mesh import Mesh, certificates, mesh
from tests.netns.test_hostile_controller import is_well, serve, tell

SETTLE_SECONDS = 1.5
"""After an answer that was taken: what it changes at the proxy comes a little later."""
LOOK = "ip route show table all; ip -6 route show table all | grep -v ^fe80; ip rule; ip -6 rule; nft list ruleset"


@pytest.fixture(name="vm", scope="module")
def vm_fixture() -> Iterator[Mesh]:
    with mesh() as found:
        tell(found, hold=1.0)
        serve(found)
        found.start_daemon()
        found.wait_ready()
        (found.folder / "other").mkdir()
        certificates(found.folder / "other")
        yield found


def since(vm: Mesh, number: int) -> str:
    """What the hostile controller has been asked since that attack."""
    return (vm.folder / "hostile.log").read_text().partition(f"attacked {number}.")[2]


def state(vm: Mesh) -> dict[str, Any]:
    """What no controller may change. The kernel's own counters and times are no part of it."""
    text = re.sub(r"expires \d+sec|packets \d+ bytes \d+", "", vm.vm.run("sh", "-c", LOOK))
    files = {path.name for folder in ("", "etc", "certs") for path in (vm.folder / folder).iterdir()}
    status = vm.status()
    resolv_conf = (vm.folder / "resolv.conf").read_text() if (vm.folder / "resolv.conf").exists() else ""
    kept = files - {"told.new", "state.new"}
    return {"kernel": text, "files": kept, "resolv.conf": resolv_conf, "name": status["workload"]["name"],
            "anchors": [anchor["fingerprint"] for anchor in status["trust_anchors"]], "proxy": vm.proxy_pid(),
            "daemon": vm.processes["harness"].poll()}  # fmt: skip


def attack(vm: Mesh, name: str) -> str:
    """What was wrong; empty when the machine has withstood it."""
    before, number = state(vm), list(ATTACKS).index(name) + 1
    cycles = vm.status()["counters"]["cycles"]
    anchor = (vm.folder / "other/ca.crt").read_text()
    text = json.dumps(ATTACKS[name]).replace("$M", f"{vm.folder}/marker").replace("$A", json.dumps(anchor)[1:-1])
    tell(vm, hold=0.6, number=number, attack=json.loads(text))
    # The next call shows what became of the answer; and a cycle has seen it.
    vm.wait(lambda: "asked after" in since(vm, number) or has_ended(vm))
    taken = f"asked after attack-{number}." in since(vm, number)
    if taken:
        vm.wait(lambda: vm.status()["counters"]["cycles"] > cycles + 1 or has_ended(vm))
    after = state(vm)
    ends = time.monotonic() + SETTLE_SECONDS * taken
    while before == after and time.monotonic() < ends:
        time.sleep(0.1)
        after = state(vm)
    differ = [part for part in before if before[part] != after[part]]
    lines = sorted(set(after["kernel"].splitlines()) ^ set(before["kernel"].splitlines()))
    wrong = "\n".join([f"changed: {', '.join(differ)}", *lines]) if differ else ""
    return "the answer was taken" if taken and name in REFUSED else wrong


def has_ended(vm: Mesh) -> bool:
    return vm.processes["harness"].poll() is not None


def again(vm: Mesh, kernel: str) -> None:
    """After an attack that has succeeded: a member as before, from the right answer, or from a new daemon."""
    tell(vm, hold=1.0)
    if has_ended(vm):
        vm.start_daemon()
    vm.wait(lambda: is_well(vm) and state(vm)["kernel"] == kernel)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_as_before(vm: Mesh, name: str) -> None:
    kernel = state(vm)["kernel"]
    wrong = attack(vm, name)
    if wrong:
        again(vm, kernel)
    if name in WAITS:
        assert wrong, "it is withstood now: take it off WAITS"
        pytest.xfail(wrong)
    assert wrong == ""


def test_it_is_a_member_afterwards(vm: Mesh) -> None:
    tell(vm, hold=1.0)
    vm.wait(partial(is_well, vm))
    assert not (vm.folder / "marker").exists()
    assert "Program" not in [condition["name"] for condition in vm.status()["conditions"]], "it is no bug of ours"


def test_the_table_is_large() -> None:
    assert len(ATTACKS) >= 60 and ATTACKS.keys() >= WAITS
