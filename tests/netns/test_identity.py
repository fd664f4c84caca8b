"""What the daemon owes its SVID whoever issues it: on SPIRE where its programs are on PATH, and on the embedded stand-in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spire_support import MISSING, SPIRE, Machine, machine

pytestmark = pytest.mark.root
MODES = ["local", "embedded"] if SPIRE else ["embedded"]
SOURCES = {"local": ("spire-server", "spire-agent"), "embedded": ("workload-api",)}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vm(mode: str) -> Iterator[Machine]:
    with machine() as found:
        found.configure(mode)
        yield found


def test_which_identities_this_run_used(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nidentity runs on: {', '.join(MODES)}" + ("" if SPIRE else f"; {MISSING}"))


def pid(vm: Machine, child: str) -> int:
    """By the record that `cleanup` goes by."""
    record = vm.vm.folder / "run" / "children" / f"{child}.json"
    try:
        return int(json.loads(record.read_text())["pid"])
    except FileNotFoundError:  # between two of its lives
        return 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_whoever_issues_it_comes_back_and_the_proxy_runs_on(vm: Machine, mode: str, number: signal.Signals) -> None:
    vm.start()
    for child in (*SOURCES[mode], "identity"):  # as each of them comes up
        vm.vm.wait(lambda child=child: pid(vm, child) != 0)  # type: ignore[misc]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid(vm, child), number)
    vm.ready()
    proxy = vm.pid("proxy")
    for child in (*SOURCES[mode], "identity"):
        before = pid(vm, child)
        os.kill(before, number)
        vm.vm.wait(lambda child=child, before=before: pid(vm, child) not in (0, before))  # type: ignore[misc]
        vm.ready()
    assert vm.pid("proxy") == proxy


def test_a_machine_that_slept_longer_than_its_svid_lasts(vm: Machine, mode: str) -> None:
    """Everything of the harness stands still, as on a suspended VM; the clock goes on."""
    life = {"svid_ttl": "5s"}
    if mode == "local":
        vm.configure(svid_ttl="5s")
    else:
        vm.configure(
            mode, identity={"embedded": {**life, "ca_cert": f"{vm.certificates}/ca.crt", "ca_key": f"{vm.certificates}/ca.key"}}
        )
    vm.start()
    vm.vm.wait(lambda: vm.vm.condition("Identity").get("status") == "True")
    children = [pid(vm, child) for child in SOURCES[mode]]
    for one in children:
        os.kill(one, signal.SIGSTOP)
    vm.wait_problem("identity-expiring")
    for one in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGCONT)
    vm.vm.wait(lambda: vm.vm.condition("Identity").get("status") == "True")


def test_a_killed_daemon_leaves_no_issuer_behind(vm: Machine, mode: str) -> None:
    """Outside systemd nobody else ends them; the embedded one changes its user by itself, which clears a death signal."""
    vm.start()
    vm.vm.wait(lambda: vm.vm.condition("Identity").get("status") == "True")
    children = [pid(vm, child) for child in (*SOURCES[mode], "identity")]
    vm.vm.processes["harness"].kill()
    vm.vm.wait(lambda: not any(Path(f"/proc/{one}/cmdline").exists() for one in children))
