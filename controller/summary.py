"""What a group's status says of its workloads, for `kubectl get externalgroups.workload.meshexp.io`. Pure."""

from __future__ import annotations

import collections
from collections.abc import Iterable

from controller import address_proof, model
from controller.manifest import ExternalGroup, GroupStatus
from controller.model import Condition, ExternalWorkload

ACCEPTED = "Accepted"
SHADOWED = "Shadowed"
PROVEN = "AddressesProven"
REACHABLE = "MachinesReachable"
WARNED = "ValidWithWarnings"


def group_status(
    group: ExternalGroup,
    workloads: Iterable[ExternalWorkload],
    wall: float,
    *,
    short: bool = False,
    proofs: Iterable[str] = (),
    closed: Iterable[int] = (),
) -> GroupStatus | None:
    """The status to write, or None when what is there says it already.

    `short`: a member has the SPIFFE ID without a namespace. `proofs`: what is known of each member's address (address_proof).
    `closed`: inbound ports of members that the controller's network policy does not let it reach.
    """
    members = tuple(workloads)
    ready = sum(workload.ready for workload in members)
    verdicts = (
        _accepted(group, short),
        ("Ready", ready == len(members) > 0, *_reason(members, ready)),
        *_proven(proofs),
        *_reachable(closed),
    )
    return _status(group, ready, len(members), verdicts, wall)


def shadowed_status(group: ExternalGroup, served: str, wall: float) -> GroupStatus | None:
    """Of a group that is not served, because there is one of its name in the API `served`; None as above."""
    text = f"the group of {served} with the same name is served, and not this one: delete one of the two"
    verdicts = ((ACCEPTED, False, SHADOWED, text), ("Ready", False, SHADOWED, text))
    return _status(group, 0, 0, verdicts, wall)


def _status(
    group: ExternalGroup, ready: int, count: int, verdicts: tuple[tuple[str, bool, str, str], ...], wall: float
) -> GroupStatus | None:
    generation = group.metadata.generation
    status = GroupStatus(
        generation,
        f"{ready}/{count}",
        ready,
        count,
        ", ".join(map(str, group.probes)) or "none",
        tuple(
            _condition(group.status, name, good, reason, text[:1024], generation, wall) for name, good, reason, text in verdicts
        ),
    )
    return None if status == group.status else status


def _accepted(group: ExternalGroup, short: bool) -> tuple[str, bool, str, str]:
    if group.fault:
        return ACCEPTED, False, "Invalid", group.fault
    warnings = (*group.warnings, *([_short(group)] if short else []))
    if warnings:
        return ACCEPTED, True, WARNED, "; ".join(warnings)
    return ACCEPTED, True, "Valid", ""


def _short(group: ExternalGroup) -> str:
    name = group.metadata.name
    return f"machines have the SPIFFE ID /{name}, which groups of this name share: invite them again as /{group.key}"


def _proven(proofs: Iterable[str]) -> Iterable[tuple[str, bool, str, str]]:
    """Only where there is something to say."""
    found = [proof for proof in proofs if proof.startswith(address_proof.UNPROVEN)]
    if found:
        each = ", ".join(f"{count} {text}" for text, count in sorted(collections.Counter(found).items()))
        yield PROVEN, False, "Unproven", f"{each}: {address_proof.HINT}"


def _reachable(closed: Iterable[int]) -> Iterable[tuple[str, bool, str, str]]:
    """Only where there is something to say: such a machine is taken for lost when it is silent, because no test reaches it."""
    if ports := sorted(set(closed)):
        text = f"machines have inbound ports that the network policy does not allow: {', '.join(map(str, ports))}"
        hint = "the controller cannot test whether they answer; add the ports to networkPolicy.machinePorts of the chart"
        yield REACHABLE, False, "PortNotAllowed", f"{text}; {hint}"


def _condition(before: GroupStatus, name: str, good: bool, reason: str, message: str, generation: int, wall: float) -> Condition:
    status = "True" if good else "False"
    old = before.condition(name)
    kept = old.last_transition_time if old is not None and old.status == status else ""
    when = kept or model.time(wall)  # another than us may have written one without a time
    return Condition(name, status, reason, message, when, generation)


def _reason(members: tuple[ExternalWorkload, ...], ready: int) -> tuple[str, str]:
    if not members:
        return "NoWorkloads", "no machine has joined"
    if ready == len(members):
        return "AllReady", ""
    reasons = collections.Counter(_why(workload) for workload in members if not workload.ready)
    return "NotReady" if ready == 0 else "SomeNotReady", ", ".join(f"{count} {why}" for why, count in sorted(reasons.items()))


def _why(workload: ExternalWorkload) -> str:
    condition = workload.status.condition(model.READY)
    return condition.reason if condition is not None and condition.reason else "Starting"
