"""How long nobody reaches a machine whose address is replaced by another. Stand-ins, one VM in a namespace."""

from __future__ import annotations

import time

from bench.record import Record, record
from tests.mesh import VM, Mesh, mesh
from tests.netns.test_addresses import NEW, replace_address, start_application
from tests.waiting import wait

ROUNDS, MOST_SECONDS, BAR_SECONDS = 10, 60.0, 2.0


def run() -> list[Record]:
    with mesh() as vm:
        vm.start_controller(lease="30s")
        vm.start_daemon()
        vm.wait_ready()
        start_application(vm)
        ways = ((VM, NEW), (NEW, VM))
        measured = sorted(_change(vm, *ways[round_ % 2]) for round_ in range(ROUNDS))
    unit = f"s, slowest of {ROUNDS}"
    slowest = record("address.change_seconds", measured[-1], unit, "address.bar_seconds", measured[-1] / BAR_SECONDS)
    median = record("address.change_median_seconds", measured[ROUNDS // 2], "s")
    return [record("address.bar_seconds", BAR_SECONDS, "s"), slowest, median]


def _change(vm: Mesh, old: str, new: str) -> float:
    """Seconds from the change until peers are told the new address, and a request there is answered."""
    before = len(vm.addresses())
    began = time.monotonic()
    replace_address(vm, old, new)
    wait(lambda: vm.addresses()[before:] == [new] and vm.reaches(new), MOST_SECONDS, every=0.01, share=1.0)
    return time.monotonic() - began
