"""What `meshexp status` reads: one JSON file, replaced whole on every change."""

from __future__ import annotations

import datetime
import os
from typing import Any

from harness import __version__
from harness.config import schema
from harness.desired import Machine
from harness.messages import Registration
from harness.specs import Readiness
from harness.status import Condition, Phase
from harness.supervisor import ChildState


def snapshot(
    config: schema.Config,
    machine: Machine,
    phase: Phase,
    since: float,
    conditions: tuple[Condition, ...],
    readiness: Readiness,
    registration: Registration | None,
    children: dict[str, tuple[int | None, ChildState]],
) -> dict[str, Any]:
    return {
        "schema": 1,
        "version": __version__,
        "pid": os.getpid(),
        "phase": phase.text,
        "phase_number": phase.number,
        "since": _iso(since),
        "ready": readiness.ready,
        "reason": readiness.reason.value,
        "message": readiness.message,
        "workload": {
            "group": config.workload.group,
            "namespace": config.workload.namespace,
            "name": registration.name if registration else None,
            "hostname": machine.hostname,
            "addresses": [str(a) for a in machine.addresses],
            "identity": str(registration.identity) if registration else None,
        },
        "conditions": [_condition(c) for c in conditions],
        "children": {
            name: {"pid": pid, "state": state.state.value, "exits": state.exits} for name, (pid, state) in children.items()
        },
    }


def _condition(condition: Condition) -> dict[str, Any]:
    problem = condition.problem
    return {
        "name": condition.name,
        "status": condition.truth.value,
        "message": condition.message,
        "problem": problem.code if problem else None,
        "severity": problem.severity.value if problem else None,
        "hint": problem.hint if problem else None,
    }


def _iso(wall: float) -> str:
    return datetime.datetime.fromtimestamp(wall, datetime.UTC).isoformat(timespec="milliseconds")
