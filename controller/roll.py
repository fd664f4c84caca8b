"""Every machine as one line, out of what the cluster has of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from controller import model, rendering
from controller.model import READY, Condition, ExternalWorkload, Lease
from controller.owners import MACHINE, VERSIONS
from controller.replicas import REPLICA, is_alive
from harness import terminal, times

NOT_HEARD = "NotHeard"
_SILENCE = re.compile(r"no report for ([0-9]{1,9}) s")


@dataclass(frozen=True, slots=True)
class Machine:
    """`ready`: None when nobody can tell; `reason` is NotHeard then, and the message has what the ExternalWorkload says.

    `last_seen`: RFC 3339; of one that is heard, when its replica last said that it is alive itself; of one whose replica is gone,
    when that was last alive. Empty: nobody can tell. `since`: RFC 3339; when what the ExternalWorkload says was written.
    """

    namespace: str
    name: str
    group: str
    identity: str
    address: str
    hostname: str
    versions: dict[str, str]
    ready: bool | None
    reason: str
    message: str
    last_seen: str
    heard_by: str
    since: str


@dataclass(frozen=True, slots=True)
class _Replicas:
    """`stamps`: when each replica that has a Lease renewed it. `alive`: those that have renewed it lately."""

    stamps: dict[str, float]
    alive: frozenset[str]


def machines(workloads: Iterable[ExternalWorkload], leases: Iterable[Lease] | None, wall: float) -> tuple[Machine, ...]:
    """By namespace and name; only those that the controller made. `leases`: None when they could not be read.

    An ExternalWorkload keeps its Ready condition for as long as nobody writes another, also when the controller is gone. So the
    condition counts only while a replica is alive that would change it.
    """
    by_name = {lease.metadata.name: lease for lease in leases or ()}
    owners = {name: lease for name, lease in by_name.items() if name.startswith(MACHINE)}
    own = [lease for name, lease in by_name.items() if name.startswith(REPLICA)]
    alive = frozenset(lease.holder for lease in own if is_alive(lease, wall))
    replicas = None if leases is None else _Replicas({lease.holder: lease.renewed for lease in own}, alive)
    found = (_machine(workload, owners, replicas) for workload in workloads)
    return tuple(sorted((one for one in found if one), key=lambda one: (one.namespace, one.name)))


def _machine(workload: ExternalWorkload, owners: dict[str, Lease], replicas: _Replicas | None) -> Machine | None:
    member, metadata = rendering.membership(workload), workload.metadata
    if member is None:
        return None
    owner = owners.get(f"{MACHINE}{metadata.namespace}.{metadata.name}")
    holder = owner.holder if owner else ""
    condition = workload.status.condition(READY) or Condition(READY, "False", "Starting")
    unheard = _unheard(condition, holder, replicas)
    heard = not unheard and condition.reason != rendering.UNREACHABLE and holder != ""
    said = owner.metadata.annotations.get(VERSIONS, "") if owner else ""
    return Machine(
        metadata.namespace, metadata.name, member.group, str(member.identity), ", ".join(map(str, member.addresses)),
        member.hostname, dict(pair.split("=", 1) for pair in said.split(",") if "=" in pair),
        None if unheard else workload.ready,
        NOT_HEARD if unheard else condition.reason,
        unheard or condition.message,
        _last_seen(condition, replicas.stamps.get(holder) if replicas else None),
        holder if heard else "",
        condition.last_transition_time,
    )  # fmt: skip


def _unheard(condition: Condition, holder: str, replicas: _Replicas | None) -> str:
    """Why nobody can tell whether the machine is ready; empty when the condition counts."""
    said = f"the ExternalWorkload still says {condition.reason}"
    if replicas is None:
        return f"the controller's leases cannot be read; {said}"
    if not replicas.alive:
        return f"no replica of the controller is alive; {said}"
    # What a replica has written of a silent machine, or of one that has just come, counts while any replica is alive.
    if holder in replicas.alive or condition.reason == rendering.UNREACHABLE or not (holder or condition.last_transition_time):
        return ""
    return f"the replica that heard it is not alive; {said}" if holder else f"no replica hears it; {said}"


def _last_seen(condition: Condition, stamp: float | None) -> str:
    silence = _SILENCE.match(condition.message) if condition.reason == rendering.UNREACHABLE else None
    if silence:
        try:
            marked = times.seconds_of(condition.last_transition_time)
            return model.time(marked - float(silence[1]))
        except (ValueError, OverflowError):
            return ""  # another has written the condition
    return "" if stamp is None else model.time(stamp)


_HEAD = ("NAMESPACE", "NAME", "HOSTNAME", "GROUP", "IDENTITY", "ADDRESS", "VERSION", "READY", "REASON", "LAST SEEN")
_WIDE = ("SINCE", "HEARD BY")
_FIRST_TO_GO = ("IDENTITY", "VERSION", "ADDRESS", "HOSTNAME", "GROUP", "NAMESPACE")
"""Columns that a narrow terminal does not show, the first of them first. The others tell which machine it is, and its state."""
_GAP = "   "
_SHORTEST_REASON = 20


def table(found: Iterable[Machine], wall: float, *, wide: bool = False, width: int | None = None) -> tuple[str, tuple[str, ...]]:
    """The lines, and the names of the columns that do not fit into `width`. Where the rest is too wide, the reasons are cut."""
    rows = [_HEAD + _WIDE if wide else _HEAD, *(_row(machine, wall, wide) for machine in found)]
    columns = {str(column[0]): column for column in zip(*rows, strict=True)}
    left_out = _fit(columns, width) if width is not None else ()
    widths = [_longest(column) for column in columns.values()]
    lines = []
    for row in zip(*columns.values(), strict=True):
        cells = (cell.ljust(wide_as) for cell, wide_as in zip(row, widths, strict=True))
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines), left_out


def _fit(columns: dict[str, tuple[str, ...]], width: int) -> tuple[str, ...]:
    """Takes columns away until the rest fits, and returns their names."""
    left_out = []
    for name in _FIRST_TO_GO:
        if _width(columns.values()) <= width:
            break
        left_out.append(name)
        del columns[name]
    too_much = _width(columns.values()) - width
    if too_much > 0:
        most = max(_SHORTEST_REASON, _longest(columns["REASON"]) - too_much)
        columns["REASON"] = tuple(terminal.cut(cell, most) for cell in columns["REASON"])
    return tuple(left_out)


def _longest(column: Iterable[str]) -> int:
    return max(map(len, column))


def _width(columns: Collection[Iterable[str]]) -> int:
    return sum(map(_longest, columns)) + len(_GAP) * (len(columns) - 1)


def _row(one: Machine, wall: float, wide: bool) -> tuple[str, ...]:
    why = f"{one.reason}: {one.message}" if one.message else one.reason
    version = one.versions.get("harness", "?")
    ready = "Unknown" if one.ready is None else str(one.ready)
    cells = [one.namespace, one.name, one.hostname, one.group, one.identity, one.address]
    cells += [version, ready, why, _age(one.last_seen, wall)]
    if wide:
        cells += [_age(one.since, wall), one.heard_by or "-"]
    # What a machine says of itself must not command the terminal, nor begin a line of its own.
    return tuple(" ".join(terminal.harmless(cell).split()) or "-" for cell in cells)


def _age(when: str, wall: float) -> str:
    try:
        seconds = max(0, round(wall - times.seconds_of(when)))
    except (ValueError, OverflowError):  # none, or what another has written
        return "?"
    return f"{times.span(seconds)} ago"
