"""The fields of `meshexp status -o json`, which is stable: within one `schema` fields are added, never changed or removed."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

from harness.status import Phase

FIELDS = {
    "schema": ("number", "1; it grows when a field changes its meaning"),
    "version": ("text", "of the harness"),
    "proxy_version": ("text or null", "of the linkerd2-proxy that runs, where `meshexp proxy install` brought it"),
    "pid": ("number", "of the daemon"),
    "pid_started": (
        "number or null",
        "when that process began: field 22 of proc(5)'s stat; it tells the daemon from a later process with its pid",
    ),
    "written.at": ("time", "when the daemon wrote this; it does so at every change, and at rest several times a lease"),
    "written.uptime": ("number", "the same in seconds since the boot (CLOCK_BOOTTIME), which no change of the clock moves"),
    "written.valid_seconds": (
        "number",
        "for how long after that it counts: the lease, at least 5 and at most 60, more in a long step",
    ),
    "looked": ("time", "when the daemon last looked at the whole machine, at least every 15 s"),
    "phase": (
        "text",
        "Starting, Ready, Degraded, Draining; Stopped without a daemon, Unknown when the daemon hangs, is stopped by a signal,"
        " or cannot be read, Waiting without a configuration that it can use",
    ),
    "phase_number": (
        "number",
        "the same for metrics: 0 Starting, 1 Ready, 2 Degraded, 3 Draining, 4 Stopped, 5 Unknown, 6 Waiting",
    ),
    "since": ("time", "when the phase began"),
    "started": ("time", "when the daemon began"),
    "joined_seconds": ("number or null", "from then until it was Ready for the first time"),
    "ready": ("yes or no", "whether peers are to send traffic here; also no when the controller has been silent for a lease"),
    "reason": ("text", "of `ready`, as in the ExternalWorkload's Ready condition; Unknown in the phase Unknown"),
    "message": ("text", "what is wrong, in a sentence; empty when all is well"),
    "workload.group": ("text", "the ExternalGroup"),
    "workload.namespace": ("text", "its namespace"),
    "workload.name": ("text or null", "the ExternalWorkload; null before the registration"),
    "workload.hostname": ("text", "this machine's name for people"),
    "workload.addresses[]": ("text", "where peers reach this machine"),
    "workload.identity": ("text or null", "the SPIFFE ID that peers expect"),
    "instances.NAME": ("text", "of the machine's first workload, where there are others: their phases"),
    "conditions[].name": ("text", "the part: Routes, Identity, Registration, Application, Proxy, Redirected, …"),
    "conditions[].status": ("text", "True, False or Unknown"),
    "conditions[].applies": ("yes or no", "no where there is nothing to bring about, and so nothing was tried"),
    "conditions[].message": ("text", "how it stands, in a sentence: where something is wrong, what was tried and what came back"),
    "conditions[].counts": ("text", "how often, where that is known: `probe 1 of 1, 4 failures`; empty otherwise"),
    "conditions[].since": ("time or null", "since when its status and its problem are these, as this daemon knows"),
    "conditions[].problem": ("text or null", "the code of a known problem, which `meshexp explain` takes"),
    "conditions[].severity": ("text or null", "error or warning"),
    "conditions[].where": ("text or null", "where the problem is fixed: machine, cluster, or either"),
    "conditions[].hint": ("text or null", "what to do, with a command that shows more"),
    "children.NAME.pid": ("number or null", "of a child that runs"),
    "children.NAME.state": ("text", "stopped, starting, running, backoff or stopping"),
    "children.NAME.exits": ("number", "exits that nobody asked for, since it last ran for 10 s"),
    "children.NAME.restarts": ("number", "exits that nobody asked for, since the daemon's start"),
    "children.NAME.since": ("time or null", "since when it has been in this state, while it lives"),
    "certificates.NAME": (
        "time or null",
        "the end of: svid (the machine's), proxy (the one it shows), signing (SPIRE's CA here)",
    ),
    "certificate_lifetimes.NAME": ("number or null", "in seconds, from the beginning to the end of the same certificates"),
    "trust_anchors[].fingerprint": ("text", "SHA-256, in hexadecimal, of a trust anchor in use"),
    "trust_anchors[].begins": ("time", "the first moment at which it is valid"),
    "trust_anchors[].ends": ("time", "the last moment at which it is valid"),
    "endpoints[].address": ("text", "what Linkerd gives to peers"),
    "endpoints[].port": ("number", "of the group's template"),
    "endpoints[].name": ("text", "of that port"),
    "probes[].probe": ("text", "one of the group's readiness probes"),
    "probes[].passing": ("yes or no", "how it stands, by its thresholds"),
    "probes[].passed": ("number", "checks that passed, since the group had this probe"),
    "probes[].failed": ("number", "checks that failed, since then"),
    "calls.CALL.answered": ("number", "answers of the controller to register, hold, state and leave, since the daemon's start"),
    "calls.CALL.failed": ("number", "calls that were refused or not answered, since then"),
    "calls.CALL.seconds": ("number", "how long all answers took together; a `hold` waits for news on purpose"),
    "calls.CALL.answered_at": ("time or null", "the last answer"),
    "reported.ready": ("yes or no", "what the controller has last heard; `reported` is null before it has heard anything"),
    "reported.reason": ("text", "with that"),
    "neighbours[]": ("number", "uid of another proxy here that the rules leave alone; `neighbours` is null without rules"),
    "counters.cycles": ("number", "looks at the whole, since the daemon's start"),
    "counters.changes.PART": ("number", "changes that were made to a part, since then"),
    "counters.repairs.PART": ("number", "the changes among them to what had been right, while nobody wanted another"),
    "counters.failures.PART": ("number", "changes that failed, since then"),
}
"""Dotted; `[]` is each of a list, a word in capitals any name."""
_NEW_OF_CONDITIONS = tuple(f"conditions[].{name}" for name in ("where", "applies", "counts", "since"))
LATER = ("pid_started", "written", "looked", "certificate_lifetimes", "trust_anchors", *_NEW_OF_CONDITIONS, "instances")
"""What a daemon of version 0.1 does not write, as a whole; `instances` is the reader's."""
NULLABLE = ("reported", "neighbours")
"""What may be null as a whole."""
AT_LEAST = ("pid", "phase", "ready", "message")
"""What a daemon writes, with its conditions, while it waits for a configuration, or cannot begin."""
LARGEST = 1 << 62
"""No number here comes near it, and float() takes what is below."""
_MISSING = object()


def fault(data: object) -> str:
    """What is not as in the table, in a snapshot that anybody may have written; empty when nothing is."""
    if not isinstance(data, dict):
        return "it is no mapping"
    for name, (kind, _) in FIELDS.items():
        for value in _values(data, name.split("."), nullable=name.startswith(NULLABLE)):
            if value is _MISSING and not _may_be_missing(name, data):
                return f"{name} is missing"
            if value is not _MISSING and not _is(value, kind):
                return f"{name} is no {kind}"
    return ""


def _may_be_missing(name: str, data: dict[str, Any]) -> bool:
    if data.get("phase") in (Phase.WAITING.text, Phase.STARTING.text) and name not in AT_LEAST:
        return True
    whole = name.partition(".")[0]
    return name in LATER or (whole in LATER and whole not in data)


def _values(value: object, parts: list[str], *, nullable: bool) -> Iterator[object]:
    """Each value that there is at that place; `_MISSING` where there is none."""
    if not parts:
        yield value
        return
    if value is None and nullable:
        return
    key, rest = parts[0], parts[1:]
    if not isinstance(value, dict):
        yield _MISSING
    elif key.isupper():
        for inner in value.values():
            yield from _values(inner, rest, nullable=False)
    elif key.endswith("[]"):
        yield from _listed(value.get(key.removesuffix("[]"), _MISSING), rest, nullable=nullable)
    else:
        yield from _values(value.get(key, _MISSING), rest, nullable=nullable)


def _listed(value: object, parts: list[str], *, nullable: bool) -> Iterator[object]:
    if isinstance(value, list):
        for inner in value:
            yield from _values(inner, parts, nullable=False)
    elif value is not None or not nullable:
        yield _MISSING


def _is(value: object, kind: str) -> bool:
    if value is None:
        return kind.endswith("or null")
    match kind.removesuffix(" or null"):
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
        case "yes or no":
            return isinstance(value, bool)
        case "time":
            return isinstance(value, str) and _is_time(value)
    return isinstance(value, str)


def _is_time(text: str) -> bool:
    try:
        return datetime.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
