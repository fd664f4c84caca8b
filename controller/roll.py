"""Every machine as one line, out of what the cluster has of it. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass

from controller import model, rendering
from controller.model import READY, ExternalWorkload, Lease
from controller.owners import MACHINE, VERSIONS
from controller.replicas import REPLICA

_SILENCE = re.compile(r"no report for (\d+) s")
_FRESH_SECONDS = 30.0
"""A replica renews every 2 s; the rest is for this clock being another than the cluster's."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`last_seen`: RFC 3339; of one that is heard, when its replica last said that it is alive itself. Empty: nobody can tell."""

    namespace: str
    name: str
    group: str
    identity: str
    address: str
    hostname: str
    versions: dict[str, str]
    ready: bool
    reason: str
    message: str
    last_seen: str
    heard_by: str


def machines(workloads: Iterable[ExternalWorkload], leases: Iterable[Lease], wall: float) -> tuple[Machine, ...]:
    """By namespace and name; only those that the controller made."""
    by_name = {lease.metadata.name: lease for lease in leases}
    found = (_machine(workload, by_name, wall) for workload in workloads)
    return tuple(sorted((one for one in found if one), key=lambda one: (one.namespace, one.name)))


def _machine(workload: ExternalWorkload, leases: dict[str, Lease], wall: float) -> Machine | None:
    member, metadata = rendering.membership(workload), workload.metadata
    if member is None:
        return None
    owner = leases.get(f"{MACHINE}{metadata.namespace}.{metadata.name}")
    replica = leases.get(f"{REPLICA}{owner.holder}") if owner else None
    heard = replica is not None and wall - replica.renewed < _FRESH_SECONDS
    condition = workload.status.condition(READY)
    reason, message = (condition.reason, condition.message) if condition else ("Starting", "")
    last_seen = ""
    silence = _SILENCE.match(message) if reason == rendering.UNREACHABLE else None
    if condition and silence:
        marked = datetime.datetime.fromisoformat(condition.last_transition_time).timestamp()
        last_seen, heard = model.time(marked - float(silence[1])), False
    elif replica is not None and heard:
        last_seen = model.time(replica.renewed)
    said = owner.metadata.annotations.get(VERSIONS, "") if owner else ""
    return Machine(
        metadata.namespace, metadata.name, member.group, str(member.identity), ", ".join(map(str, member.addresses)),
        member.hostname, dict(pair.split("=", 1) for pair in said.split(",") if "=" in pair), workload.ready, reason, message,
        last_seen, owner.holder if owner and heard else "",
    )  # fmt: skip


_HEAD = ("NAMESPACE", "NAME", "GROUP", "IDENTITY", "ADDRESS", "VERSION", "READY", "REASON", "LAST SEEN")


def table(found: Iterable[Machine], wall: float) -> str:
    rows = [_HEAD, *(_row(machine, wall) for machine in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(one: Machine, wall: float) -> tuple[str, ...]:
    why = f"{one.reason}: {one.message}" if one.message else one.reason
    version = one.versions.get("harness", "?")
    state = (str(one.ready), why, _age(one.last_seen, wall))
    return (one.namespace, one.name, one.group, one.identity, one.address, version, *state)


def _age(when: str, wall: float) -> str:
    if not when:
        return "?"
    seconds = max(0, round(wall - datetime.datetime.fromisoformat(when).timestamp()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"
