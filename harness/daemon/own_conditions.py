"""Conditions of the daemon itself, and of what an operator has done, next to those of the daemon's parts. Pure."""

from __future__ import annotations

from dataclasses import replace

from harness import problems
from harness.errors import UnreadableError
from harness.known import Machine, Progress
from harness.problems import Found
from harness.status import Condition, Truth, wrong

MOST_NAMED = 4


def added(
    parts: tuple[Condition, ...],
    machine: Machine,
    progress: Progress,
    *,
    reload_fault: str,
    metrics_fault: Found | None,
    anchors: Condition | None,
    bugs: tuple[Condition, ...],
) -> tuple[Condition, ...]:
    """`parts`, with a wrong configuration before them, and the rest behind."""
    before = []
    behind = []
    if reload_fault:
        before.append(wrong("Configuration", Truth.TRUE, problems.CONFIG_RELOAD_FAILED.found("taking it into use", reload_fault)))
    if machine.unaddressed:
        found = problems.NO_ADDRESS.found("looking for this machine's address", machine.unaddressed)
        before.append(wrong("Address", Truth.FALSE, found))
    if progress.refused:
        came = "; ".join(str(refusal) for refusal in progress.refused[:MOST_NAMED])
        more = len(progress.refused) - MOST_NAMED
        keys = tuple(dict.fromkeys(refusal.key for refusal in progress.refused))
        told = f"{came}; and {more} more" if more > 0 else came
        limits = " and ".join(keys)
        found = problems.TOLD_REFUSED.found("comparing what the controller tells with this machine's limits", told, key=limits)
        behind.append(wrong("Limits", Truth.FALSE, found))
    if progress.cordon is not None:
        behind.append(wrong("Cordoned", Truth.TRUE, problems.CORDONED.found("by `meshexp cordon`", progress.cordon)))
    if anchors is not None:
        behind.append(anchors)
    if machine.unkept is not None:
        behind.append(wrong("State", Truth.TRUE, problems.of_failure("keeping what a restart needs", machine.unkept)))
    if machine.unread:
        behind.append(_unread(machine.unread))
    if metrics_fault:
        behind.append(wrong("Metrics", Truth.TRUE, metrics_fault))
    return (*before, *parts, *behind, *bugs)


def _unread(errors: tuple[UnreadableError, ...]) -> Condition:
    """Names each folder and file: its owner can only give the right to what is named."""
    found = problems.of_failure("reading what this machine's other workloads have for themselves", errors[0])
    came = "; ".join(error.message for error in errors)
    return wrong("Workloads", Truth.TRUE, replace(found, came=came))
