"""A controller that answers what none should: the daemon does not spin, grow or leave, and hears it when it is right again."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_support import ruleset
from tests.mesh import NODE, ROOT, Mesh, mesh

WRONG: dict[str, dict[str, Any]] = {
    "promises nothing": {"fields": {"lease_seconds": 0, "report_seconds": 0, "version": "w"}},
    "a number without end": {"body": '{"lease_seconds": 1' + 400 * "0" + "}"},
    "an age": {"fields": {"lease_seconds": 1e308}},
    "nested": {"body": 100_000 * "["},
    "no name of a path": {"fields": {"name": "a/../\u00e9?x", "secret": "\u00e9"}},
    "never ends": {"endless": True},
    "no registration": {"body": "[]"},
}
MOST_BYTES = 300 << 20


@pytest.fixture(name="vm", scope="module")
def vm_fixture() -> Iterator[Mesh]:
    with mesh() as found:
        tell(found, hold=1.0)
        serve(found)
        found.start_daemon()
        found.wait_ready()
        yield found


def tell(vm: Mesh, **what: Any) -> None:
    fresh = vm.folder / "told.new"
    fresh.write_text(json.dumps(what))
    fresh.replace(vm.folder / "told")


def serve(vm: Mesh) -> None:
    argv = (sys.executable, "-m", "tests.hostile_controller", str(vm.folder / "certs"), NODE, str(vm.folder / "told"))
    vm.start("hostile", vm.node, *argv, env={"PYTHONPATH": str(ROOT)})


def held(vm: Mesh) -> int:
    found = re.findall(r"held (\d+)", (vm.folder / "hostile.log").read_text())
    return int(found[-1]) if found else 0


def is_well(vm: Mesh) -> bool:
    return bool(vm.status()["ready"]) and vm.condition("Registration")["problem"] is None


@pytest.mark.parametrize("name", WRONG)
def test_it_stays_a_member_and_hears_the_next_right_answer(vm: Mesh, name: str) -> None:
    rules, before = ruleset(vm), held(vm)
    tell(vm, hold=0.3, **WRONG[name])
    vm.wait(lambda: held(vm) > before + 1)
    vm.wait(lambda: not is_well(vm))
    daemon = vm.processes["harness"]
    assert daemon.poll() is None and ruleset(vm) == rules
    size = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())
    assert size and int(size[1]) << 10 < MOST_BYTES
    assert "Program" not in [condition["name"] for condition in vm.status()["conditions"]], "it is no bug of ours"
    tell(vm, hold=1.0)
    vm.wait(lambda: is_well(vm))
    assert ruleset(vm) == rules


@pytest.mark.parametrize("changes", [False, True])
def test_one_that_never_holds_is_not_asked_again_and_again(vm: Mesh, changes: bool) -> None:
    tell(vm, changes=changes)
    first = held(vm)
    vm.wait(lambda: held(vm) > first + 15)
    before = held(vm)
    time.sleep(4.0)
    assert held(vm) - before < 12, "one a second, and not hundreds"
    assert vm.status()["ready"]
    tell(vm, hold=1.0)


def test_it_cannot_keep_a_machine_from_stopping(vm: Mesh) -> None:
    """An endless drain is cut off; the stop says how long it may take at most."""
    from harness.daemon.shutdown import SPREAD_MOST_SECONDS

    tell(vm, hold=0.3, fields={"drain_seconds": 300_000_000, "version": "long"})
    vm.wait(lambda: "300000000" in (vm.folder / "run/registration.json").read_text())
    began = time.monotonic()
    assert vm.processes["harness"].poll() is None
    vm.processes["harness"].terminate()
    assert vm.processes["harness"].wait(SPREAD_MOST_SECONDS + 60) == 0
    assert time.monotonic() - began < SPREAD_MOST_SECONDS + 60
