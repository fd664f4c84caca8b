"""How long two machines with one name are taken for one: until the copy has been refused, and the first has been told.

Stand-ins, two machines in namespaces.
"""

from __future__ import annotations

import time

from bench.record import Record, record
from tests.copy_support import Copy, bridged
from tests.mesh import mesh
from tests.waiting import wait

LEASE_SECONDS, ROUNDS, MOST_SECONDS = 30.0, 5, 120.0


def run() -> list[Record]:
    measured = sorted((_round(round_ % 2 == 0) for round_ in range(ROUNDS)), key=lambda one: one[1])
    taken = max(moved for moved, _ in measured)
    unit = f"s, slowest of {ROUNDS}"
    detected = record("clone.detected_seconds", measured[-1][1], unit, "clone.lease_seconds", measured[-1][1] / LEASE_SECONDS)
    return [
        record("clone.lease_seconds", LEASE_SECONDS, "s"),
        detected,
        record("clone.address_taken_times", taken, "times, most in a round"),
    ]


def _round(boots: bool) -> tuple[int, float]:
    """How often the first one's name got the copy's address, and seconds from the copy's first call until both say so."""
    with mesh() as vm, bridged(vm) as place:
        vm.start_controller(lease=f"{LEASE_SECONDS:g}s")
        vm.start_daemon()
        vm.wait_ready()
        name = vm.status()["workload"]["name"]
        copy = Copy(vm, place, boots)
        copy.start()
        log = vm.folder / "copy.log"
        wait(lambda: "register vm" in log.read_text(), MOST_SECONDS, every=0.01, share=1.0)
        began = time.monotonic()
        told = {"machine-copied", "machine-is-copy"}
        wait(lambda: {vm.condition("Registration").get("problem"), copy.problem()} == told, MOST_SECONDS, every=0.01, share=1.0)
        seconds = time.monotonic() - began
        own = vm.addresses(name)
    return sum(address != own[0] for address in own), seconds
