"""`kubectl meshexp get` out of what the cluster has: ready counts only while somebody would say otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from controller import roll
from controller.model import READY, Condition, ExternalWorkload, Lease, Metadata, Status, time
from controller.owners import MACHINE, VERSIONS
from controller.rendering import GENERATION, GROUP_LABEL, HOSTNAME, INSTANCE
from controller.replicas import READER_SECONDS, REPLICA
from controller.roll import NOT_HEARD, Machine
from tests.controller_support import workload

WALL = 1_000_000.0


def machine(ready: bool = True, reason: str = "Ready", message: str = "", hostname: str = "vm1") -> ExternalWorkload:
    made = workload("face-1")
    marks = {INSTANCE: "i", GENERATION: "0", HOSTNAME: hostname}
    metadata = dataclasses.replace(made.metadata, labels={GROUP_LABEL: "face"}, annotations=marks)
    condition = Condition(READY, str(ready), reason, message, time(WALL - 600))
    return dataclasses.replace(made, metadata=metadata, status=Status((condition,)))


def replica(name: str, ago: float) -> Lease:
    return Lease(Metadata(f"{REPLICA}{name}", "meshexp"), name, WALL - ago, 8.0)


def owner(name: str) -> Lease:
    metadata = Metadata(f"{MACHINE}faces.face-1", "meshexp", annotations={VERSIONS: "harness=9.8.7"})
    return Lease(metadata, name, WALL - 5000, 8.0)


def seen(one: ExternalWorkload, *leases: Lease) -> Machine:
    (found,) = roll.machines([one], leases, WALL)
    return found


def test_one_that_a_living_replica_hears() -> None:
    found = seen(machine(), owner("a"), replica("a", 2))
    assert (found.ready, found.reason, found.heard_by, found.last_seen) == (True, "Ready", "a", time(WALL - 2))
    found = seen(machine(False, "ProbeFailed", "no answer"), owner("a"), replica("a", 2))
    assert (found.ready, found.reason, found.message) == (False, "ProbeFailed", "no answer")


GONE: dict[str, tuple[Lease, ...]] = {
    "the controller is gone, and its leases with it": (),
    "the machine's lease is left": (owner("a"),),
    "all replicas are dead": (owner("a"), replica("a", READER_SECONDS), replica("b", 4000)),
    "the one that heard it is dead": (owner("a"), replica("a", 4000), replica("b", 2)),
    "the one that heard it has resigned": (owner("a"), replica("b", 2)),
    "its stamp is in the future": (owner("a"), replica("a", -3600)),
    "no replica has claimed it": (replica("b", 2),),
}


@pytest.mark.parametrize("case", GONE)
@pytest.mark.parametrize("ready", [True, False])
def test_one_that_no_replica_hears_is_unknown(case: str, ready: bool) -> None:
    reason = "Ready" if ready else "ProbeFailed"
    found = seen(machine(ready, reason), *GONE[case])
    assert found.ready is None and found.reason == NOT_HEARD and found.heard_by == ""
    assert found.message.endswith(f"the ExternalWorkload still says {reason}")
    assert " Unknown " in roll.table([found], WALL)[0]


def test_leases_that_may_not_be_read_are_not_absent_ones() -> None:
    (found,) = roll.machines([machine()], None, WALL)
    assert found.ready is None and found.message.startswith("the controller's leases cannot be read")


def test_silence_that_a_replica_has_written_counts_while_any_is_alive() -> None:
    silent = machine(False, "Unreachable", "no report for 30 s")
    found = seen(silent, owner("a"), replica("b", 2))
    assert (found.ready, found.reason, found.last_seen) == (False, "Unreachable", time(WALL - 630))
    assert seen(silent, owner("a"), replica("b", 4000)).ready is None


def test_one_that_has_just_come_is_starting() -> None:
    fresh = dataclasses.replace(machine(), status=Status())
    found = seen(fresh, replica("a", 2))
    assert (found.ready, found.reason) == (False, "Starting")


def test_what_a_machine_says_neither_commands_the_terminal_nor_begins_a_line() -> None:
    hostile: dict[str, Any] = {"hostname": "a\nb\x1b[2J", "message": "x\ty"}
    shown, _ = roll.table([seen(machine(False, "ProbeFailed", **hostile), owner("a"), replica("a", 2))], WALL, wide=True)
    head, row = shown.split("\n")
    assert "a b?[2J" in row and "ProbeFailed: x y" in row and row.split()[-1] == "a" and "10 min ago" in row
    assert head.split()[-6:] == ["REASON", "LAST", "SEEN", "SINCE", "HEARD", "BY"]


def test_a_narrow_terminal_shows_which_machine_it_is_and_how_it_stands() -> None:
    found = [seen(machine(False, "ProbeFailed", "GET http://10.9.0.2:8000/ready: no answer"), owner("a"), replica("a", 2))]
    whole, nothing = roll.table(found, WALL)
    assert max(map(len, whole.split("\n"))) > 80 and nothing == ()
    for width in (120, 80, 40):
        shown, left_out = roll.table(found, WALL, width=width)
        assert max(map(len, shown.split("\n"))) <= max(width, 60)
        head = shown.split("\n")[0]
        assert all(name in head for name in ("NAME", "READY", "REASON", "LAST SEEN")) and left_out[0] == "IDENTITY"
        assert not any(f" {name} " in f" {head} " for name in left_out)
    assert "ProbeFailed: GET" in shown and "…" in shown
