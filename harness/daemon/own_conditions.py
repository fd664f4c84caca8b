"""Conditions of the daemon itself, and of what an operator has done, next to those of the daemon's parts. Pure."""

from __future__ import annotations

from harness import problems
from harness.desired import Machine, Progress, anchors_behind
from harness.status import Condition, Truth


def added(
    parts: tuple[Condition, ...],
    machine: Machine,
    progress: Progress,
    *,
    reload_fault: str,
    metrics_fault: str,
    bugs: tuple[Condition, ...],
) -> tuple[Condition, ...]:
    """`parts`, with a wrong configuration before them, and the rest behind."""
    before = []
    behind = []
    if reload_fault:
        before.append(Condition("Configuration", Truth.TRUE, reload_fault, problems.CONFIG_RELOAD_FAILED))
    if progress.cordon is not None:
        behind.append(Condition("Cordoned", Truth.TRUE, progress.cordon, problems.CORDONED))
    if anchors_behind(machine, progress.registration):
        behind.append(Condition("Anchors", Truth.TRUE, "told by the controller", problems.ANCHORS_BEHIND))
    if machine.unkept is not None:
        behind.append(Condition("State", Truth.TRUE, machine.unkept.message, problems.of_failure(machine.unkept)))
    if metrics_fault:
        behind.append(Condition("Metrics", Truth.TRUE, metrics_fault, problems.METRICS_NOT_EXPORTED))
    return (*before, *parts, *behind, *bugs)
