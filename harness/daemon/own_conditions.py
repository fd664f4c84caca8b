"""Conditions of the daemon itself, and of what an operator has done, next to those of the daemon's parts. Pure."""

from __future__ import annotations

from harness import problems
from harness.desired import Machine, Progress, anchors_behind
from harness.problems import Found
from harness.status import Condition, Truth, wrong


def added(
    parts: tuple[Condition, ...],
    machine: Machine,
    progress: Progress,
    *,
    reload_fault: str,
    metrics_fault: Found | None,
    bugs: tuple[Condition, ...],
) -> tuple[Condition, ...]:
    """`parts`, with a wrong configuration before them, and the rest behind."""
    before = []
    behind = []
    if reload_fault:
        before.append(wrong("Configuration", Truth.TRUE, problems.CONFIG_RELOAD_FAILED.found("taking it into use", reload_fault)))
    if progress.cordon is not None:
        behind.append(wrong("Cordoned", Truth.TRUE, problems.CORDONED.found("by `meshexp cordon`", progress.cordon)))
    if anchors_behind(machine, progress.registration):
        came = "the controller tells other certificates, which are in use"
        found = problems.ANCHORS_BEHIND.found("reading controller.trust_anchors", came)
        behind.append(wrong("Anchors", Truth.TRUE, found))
    if machine.unkept is not None:
        behind.append(wrong("State", Truth.TRUE, problems.of_failure("keeping what a restart needs", machine.unkept)))
    if metrics_fault:
        behind.append(wrong("Metrics", Truth.TRUE, metrics_fault))
    return (*before, *parts, *behind, *bugs)
