"""How long `meshexp status` says Ready of a machine that the cluster no longer hears. Stand-ins, one VM in a namespace."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.record import Record, record
from tests.mesh import Mesh, mesh
from tests.waiting import wait

LEASE_SECONDS, ROUNDS, MOST_SECONDS = 5.0, 5, 120.0


def run() -> list[Record]:
    records = [record("status.lease_seconds", LEASE_SECONDS, "s")]
    measured: list[float] = []
    for name, (break_, repair) in WAYS.items():
        with mesh() as vm:
            vm.start_controller(lease=f"{LEASE_SECONDS:g}s")
            _faults(vm).mkdir()
            vm.start("harness", vm.vm, sys.executable, "-s", "-m", "tests.faulty", str(_faults(vm)), "run")
            slowest = max(_false_ready(vm, break_, repair, round_) for round_ in range(ROUNDS))
        measured.append(slowest)
        unit = f"s, slowest of {ROUNDS}"
        records.append(record(f"status.false_ready_{name}_seconds", slowest, unit, *_against(slowest)))
    return [record("status.false_ready_seconds", max(measured), "s", *_against(max(measured))), *records]


def _against(seconds: float) -> tuple[str, float]:
    return "status.lease_seconds", seconds / LEASE_SECONDS


def _false_ready(vm: Mesh, break_: Callable[[Mesh], object], repair: Callable[[Mesh], object], round_: int) -> float:
    """Seconds from the break until `meshexp status` no longer says Ready, its own start included.

    The break is at another time of the held call in each round.
    """
    vm.wait(lambda: _says_ready(vm))
    time.sleep(LEASE_SECONDS / 3 * round_ / ROUNDS)
    break_(vm)
    seconds = wait(lambda: not _says_ready(vm), MOST_SECONDS, every=0.02, share=1.0)
    repair(vm)
    return seconds


def _says_ready(vm: Mesh) -> bool:
    return bool(json.loads(vm.meshexp("status", "-o", "json").stdout)["phase"] == "Ready")


def _cut(vm: Mesh) -> None:
    """Packets are dropped in both directions, and nobody is told."""
    chains = "".join(
        f"add chain inet cut {hook} {{ type filter hook {hook} priority -300; }}; add rule inet cut {hook} {way} eth0 drop; "
        for hook, way in (("input", "iifname"), ("output", "oifname"))
    )
    vm.vm.run("nft", f"add table inet cut; {chains}")


def _hang(vm: Mesh) -> None:
    """Its process is not stopped, but one step of it does not end."""
    _hangs(vm).touch()
    _signalled(signal.SIGUSR2)(vm)


def _hangs(vm: Mesh) -> Path:
    return _faults(vm) / "cycle.hang"


def _faults(vm: Mesh) -> Path:
    return vm.folder / "faults"


def _signalled(number: signal.Signals) -> Callable[[Mesh], None]:
    return lambda vm: vm.processes["harness"].send_signal(number)


WAYS: dict[str, tuple[Callable[[Mesh], object], Callable[[Mesh], object]]] = {
    "cut": (_cut, lambda vm: vm.vm.run("nft", "delete table inet cut")),
    "stopped": (_signalled(signal.SIGSTOP), _signalled(signal.SIGCONT)),
    "hanging": (_hang, lambda vm: _hangs(vm).unlink()),
}
