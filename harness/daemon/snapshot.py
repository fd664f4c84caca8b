"""What `meshexp status` reads: one JSON file, replaced whole on every change, and at rest several times a lease."""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from harness import __version__, anchors, freshness, proxy_release
from harness.clock import Clock
from harness.config import schema
from harness.known import Machine
from harness.messages import Registration
from harness.reconcilers.controller_calls import Calls
from harness.reconcilers.lease import Silence
from harness.reconcilers.probes import Health
from harness.specs import Check, Readiness
from harness.status import Condition, Phase, encoded
from harness.supervisor import ChildState
from harness.system import process, spire_certificate


@dataclass(slots=True)
class Counters:
    """Since the daemon's start, by part. `repairs`: changes to what had been right, while nobody wanted another."""

    cycles: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Observed:
    """`proxy`: the binary that runs. `ends`: epoch seconds, 0 where there is none. `lifetimes`: seconds, likewise.

    `neighbours`: uids of this machine's other proxies, which the rules in force leave alone; None without rules.
    `boot`: the epoch second at which Clock.now() was 0. `began`: Clock.now() at the start. `joined_seconds`: from then until it
    was Ready for the first time. `silence`: of the controller. `looked`: the epoch second of this look.
    `since`: when each condition began to stand as it does, by name.
    """

    children: dict[str, tuple[int | None, ChildState]]
    proxy: str | None
    ends: dict[str, float]
    lifetimes: dict[str, float]
    reported: Readiness | None
    neighbours: tuple[int, ...] | None
    counters: Counters
    probes: tuple[tuple[Check, Health], ...]
    calls: Mapping[str, Calls]
    boot: float
    began: float
    joined_seconds: float | None
    silence: Silence | None
    looked: float
    since: Mapping[str, float]


def written(clock: Clock, lease_seconds: float | None, busy_seconds: float = 0.0) -> dict[str, Any]:
    """By which a reader sees whether the snapshot still counts. `busy_seconds`: nothing is written for so long."""
    return {
        "at": _iso(clock.wall()),
        "uptime": round(clock.boot(), 3),
        "valid_seconds": round(freshness.valid_seconds(lease_seconds) + busy_seconds, 3),
    }


def snapshot(
    config: schema.Config,
    machine: Machine,
    phase: Phase,
    since: float,
    conditions: tuple[Condition, ...],
    readiness: Readiness,
    registration: Registration | None,
    look: Observed,
    known: Mapping[str, str],
) -> dict[str, Any]:
    """All but `written`. `known`: the values that hints have places for."""
    here = config.identity.mode in (schema.IdentityMode.LOCAL, schema.IdentityMode.EMBEDDED)
    return {
        "schema": 1,
        "version": __version__,
        "proxy_version": _release(look.proxy),
        "pid": os.getpid(),
        "pid_started": process.start_time(os.getpid()),
        "looked": _iso(look.looked),
        "phase": phase.text,
        "phase_number": phase.number,
        "since": _iso(since),
        "started": _iso(look.boot + look.began),
        "joined_seconds": look.joined_seconds,
        **_ready(readiness, look.silence, conditions),
        "workload": {
            "group": config.workload.group,
            "namespace": config.workload.namespace,
            "name": registration.name if registration else None,
            "hostname": machine.hostname,
            "addresses": [str(a) for a in machine.addresses],
            "identity": str(registration.identity) if registration else None,
        },
        "conditions": [
            encoded(c, identity_made_here=here, known=known, since=_iso(look.since[c.name]) if c.name in look.since else None)
            for c in conditions
        ],
        "children": {name: _child(pid, state, look.boot) for name, (pid, state) in look.children.items()},
        "certificates": {name: _iso(end) if end else None for name, end in look.ends.items()},
        "certificate_lifetimes": {name: round(seconds) if seconds else None for name, seconds in look.lifetimes.items()},
        "trust_anchors": _anchors(anchors.in_force(machine.anchors_pem, machine.adopted)),
        "endpoints": _endpoints(machine, registration),
        "probes": [
            {"probe": str(check.probe), "passing": health.ready, "passed": health.passed, "failed": health.failed}
            for check, health in look.probes
        ],
        "calls": {name: _calls(calls) for name, calls in look.calls.items()},
        "reported": {"ready": look.reported.ready, "reason": look.reported.reason.value} if look.reported else None,
        "neighbours": look.neighbours,
        "counters": {
            "cycles": look.counters.cycles,
            "changes": dict(look.counters.changes),
            "repairs": dict(look.counters.repairs),
            "failures": dict(look.counters.failures),
        },
    }


UNREACHABLE = "Unreachable"
"""The controller's word for a machine whose lease has ended (ExternalWorkload, reason of the condition Ready)."""


def _ready(readiness: Readiness, silence: Silence | None, conditions: tuple[Condition, ...]) -> dict[str, Any]:
    """Whether peers send to this machine: no longer when the cluster has not heard it for a lease."""
    if readiness.ready and silence is not None and silence.lapsed:
        why = next((c.message for c in conditions if c.name == "Registration"), str(silence))
        return {"ready": False, "reason": UNREACHABLE, "message": why}
    return {"ready": readiness.ready, "reason": readiness.reason.value, "message": readiness.message}


@functools.lru_cache(maxsize=1)
def _anchors(pem: str) -> list[dict[str, str]]:
    """None of what cannot be read, which has a problem of its own."""
    try:
        found = spire_certificate.read_pem(pem.encode())
    except ValueError:
        return []
    return [
        {"fingerprint": hashlib.sha256(one.data).hexdigest(), "begins": _iso(one.not_before), "ends": _iso(one.not_after)}
        for one in found
    ]


def _child(pid: int | None, state: ChildState, boot: float) -> dict[str, Any]:
    since = _iso(boot + state.since) if state.alive else None
    return {"pid": pid, "state": state.state.value, "exits": state.exits, "restarts": state.restarts, "since": since}


def _calls(calls: Calls) -> dict[str, Any]:
    answered_at = _iso(calls.answered_at) if calls.answered_at else None
    return {
        "answered": calls.answered, "failed": calls.failed, "seconds": round(calls.seconds, 6), "answered_at": answered_at
    }  # fmt: skip


def _release(path: str | None) -> str | None:
    """Of a proxy that `meshexp proxy install` brought, by its path; nobody else's says it without being run."""
    try:
        return str(proxy_release.parse(PurePath(path).parent.name)) if path else None
    except ValueError:
        return None


def _endpoints(machine: Machine, registration: Registration | None) -> list[dict[str, Any]]:
    """What peers reach: the preferred address only, as the controller gives it to Linkerd."""
    ports = registration.template.ports if registration else ()
    return [{"address": str(a), "port": p.port, "name": p.name} for a in machine.addresses[:1] for p in ports]


def _iso(wall: float) -> str:
    return datetime.datetime.fromtimestamp(wall, datetime.UTC).isoformat(timespec="milliseconds")
