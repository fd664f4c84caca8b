"""The metrics in Prometheus' text form, out of the snapshot that is also status.json: nothing is counted twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness import times

FAMILIES = {
    "meshexp_build_info": ("gauge", "Always 1; the versions of the harness and, where it is known, of linkerd2-proxy."),
    "meshexp_workload_info": ("gauge", "Always 1; what this machine is in the mesh."),
    "meshexp_phase": ("gauge", "1 for the phase that the machine is in, 0 for the others."),
    "meshexp_ready": ("gauge", "1 while peers are to send traffic here; also 0 when the controller has been silent for a lease."),
    "meshexp_start_time_seconds": ("gauge", "When the daemon began, in epoch seconds."),
    "meshexp_join_duration_seconds": ("gauge", "From the daemon's start until it was Ready for the first time."),
    "meshexp_condition": ("gauge", "1 for the status (true, false, unknown) that the condition has, 0 for the others."),
    "meshexp_problem": ("gauge", "1 for each known problem that there is; `meshexp explain` tells what its code means."),
    "meshexp_child_up": ("gauge", "1 while the child runs, and has become ready."),
    "meshexp_child_restarts_total": ("counter", "Exits of the child that nobody asked for; after each it is started again."),
    "meshexp_certificate_expiry_timestamp_seconds": (
        "gauge",
        "The end, in epoch seconds, of: svid (the machine's), proxy (the one it shows), signing (SPIRE's CA on this machine).",
    ),
    "meshexp_certificate_lifetime_seconds": (
        "gauge",
        "The time from the beginning to the end of the same certificates. The proxy's is the SVID's: one source issues both.",
    ),
    "meshexp_trust_anchor_expiry_timestamp_seconds": (
        "gauge",
        "The end, in epoch seconds, of each trust anchor in use, by the first 16 digits of its SHA-256 fingerprint.",
    ),
    "meshexp_trust_anchor_lifetime_seconds": ("gauge", "The time from the beginning to the end of each trust anchor in use."),
    "meshexp_cycles_total": ("counter", "Looks at the whole."),
    "meshexp_last_cycle_timestamp_seconds": (
        "gauge",
        "When the daemon last looked at the whole, in epoch seconds: at most 15 s ago. All else in a textfile is as old.",
    ),
    "meshexp_changes_total": ("counter", "Changes that were made to a part."),
    "meshexp_repairs_total": ("counter", "The changes among them to what had been right, while nobody wanted another."),
    "meshexp_failures_total": ("counter", "Changes of a part that failed."),
    "meshexp_probe_passing": ("gauge", "1 while the readiness probe passes, by its thresholds."),
    "meshexp_probe_checks_total": ("counter", "Results of the readiness probe, each time it was made."),
    "meshexp_controller_call_duration_seconds": (
        "summary",
        "Answered calls to the controller, and their time. register and state are round trips; a hold renews the lease, and"
        " waits for news.",
    ),
    "meshexp_controller_call_failures_total": ("counter", "Calls to the controller that were refused or not answered."),
    "meshexp_controller_last_answer_timestamp_seconds": (
        "gauge",
        "When the controller last answered, in epoch seconds; before its first answer, when the daemon began.",
    ),
}
OF_MACHINE = {"host": "hostname", "namespace": "namespace", "group": "group"}
"""Labels of every sample, each with its field of `workload`. By them each alert names its machine. And one node_exporter can read
the files of several workloads: it would refuse a sample that is there twice."""

PARTS = ("routes", "dns", "identity", "registration", "probes", "proxy", "redirect")
"""Those that have changed nothing yet are there with 0, so that the first change is an increase."""
PHASES = ("Starting", "Ready", "Degraded", "Draining", "Unknown")
STATUSES = ("True", "False", "Unknown")
Sample = tuple[str, Mapping[str, object], object]


def render(data: Mapping[str, Any]) -> str:
    """`data`: a snapshot; without one there is nothing to say."""
    if not data:
        return ""
    by_family: dict[str, dict[str, str]] = {name: {} for name in FAMILIES}
    for name, labels, value in _samples(data):
        family = next(f for f in (name, name.rpartition("_")[0]) if f in FAMILIES)
        # Two parts may have one problem, and a file of anchors one certificate twice. A reader refuses the same sample twice.
        by_family[family].setdefault(f"{name}{_labels(labels)}", _line(data, name, labels, value))
    return "".join(_family(name, lines.values()) for name, lines in by_family.items() if lines)


def is_of(text: str, data: Mapping[str, Any]) -> bool:
    """Whether the metrics are those of the daemon whose snapshot `data` is."""
    return _line(data, *_start(data)) in text


def _line(data: Mapping[str, Any], name: str, labels: Mapping[str, object], value: object) -> str:
    machine = {label: data["workload"][key] or "" for label, key in OF_MACHINE.items()}
    return f"{name}{_labels({**machine, **labels})} {_number(value)}\n"


def _start(data: Mapping[str, Any]) -> Sample:
    return "meshexp_start_time_seconds", {}, _epoch(data["started"])


def _family(name: str, lines: Iterable[str]) -> str:
    kind, text = FAMILIES[name]
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n{''.join(lines)}"


def _samples(data: Mapping[str, Any]) -> Iterator[Sample]:
    workload = {name: data["workload"][name] or "" for name in ("name", "hostname", "identity")}
    yield "meshexp_build_info", {"version": data["version"], "proxy_version": data["proxy_version"] or ""}, 1
    yield "meshexp_workload_info", workload, 1
    yield from (("meshexp_phase", {"phase": phase}, phase == data["phase"]) for phase in PHASES)
    yield "meshexp_ready", {}, data["ready"]
    yield _start(data)
    if data["joined_seconds"] is not None:
        yield "meshexp_join_duration_seconds", {}, data["joined_seconds"]
    yield from _conditions(data["conditions"])
    for name, child in data["children"].items():
        yield "meshexp_child_up", {"child": name}, child["state"] == "running"
        yield "meshexp_child_restarts_total", {"child": name}, child["restarts"]
    yield from _certificates(data)
    yield from _counters(data["counters"])
    yield "meshexp_last_cycle_timestamp_seconds", {}, _epoch(data["looked"])
    for probe in data["probes"]:
        label = {"probe": probe["probe"]}
        yield "meshexp_probe_passing", label, probe["passing"]
        yield "meshexp_probe_checks_total", {**label, "result": "passed"}, probe["passed"]
        yield "meshexp_probe_checks_total", {**label, "result": "failed"}, probe["failed"]
    yield from _calls(data["calls"], data["started"])


def _conditions(conditions: Iterable[Mapping[str, Any]]) -> Iterator[Sample]:
    for found in conditions:
        for status in STATUSES:
            yield "meshexp_condition", {"condition": found["name"], "status": status.lower()}, found["status"] == status
        if found["problem"]:
            yield "meshexp_problem", {name: found[name] for name in ("problem", "severity")}, 1


def _certificates(data: Mapping[str, Any]) -> Iterator[Sample]:
    for name, end in data["certificates"].items():
        if end is not None:
            yield "meshexp_certificate_expiry_timestamp_seconds", {"certificate": name}, _epoch(end)
    for name, seconds in data["certificate_lifetimes"].items():
        if seconds is not None:
            yield "meshexp_certificate_lifetime_seconds", {"certificate": name}, seconds
    for anchor in data["trust_anchors"]:
        label = {"anchor": anchor["fingerprint"][:16]}
        yield "meshexp_trust_anchor_expiry_timestamp_seconds", label, _epoch(anchor["ends"])
        yield "meshexp_trust_anchor_lifetime_seconds", label, _epoch(anchor["ends"]) - _epoch(anchor["begins"])


def _counters(counters: Mapping[str, Any]) -> Iterator[Sample]:
    yield "meshexp_cycles_total", {}, counters["cycles"]
    for kind in ("changes", "repairs", "failures"):
        for part in PARTS:
            yield f"meshexp_{kind}_total", {"part": part}, counters[kind].get(part, 0)


def _calls(calls: Mapping[str, Mapping[str, Any]], started: str) -> Iterator[Sample]:
    for name, found in calls.items():
        yield "meshexp_controller_call_duration_seconds_sum", {"call": name}, found["seconds"]
        yield "meshexp_controller_call_duration_seconds_count", {"call": name}, found["answered"]
        yield "meshexp_controller_call_failures_total", {"call": name}, found["failed"]
    # A restart while the controller is silent must not end what the silence has raised.
    answers = [_epoch(found["answered_at"]) for found in calls.values() if found["answered_at"]]
    yield "meshexp_controller_last_answer_timestamp_seconds", {}, max(answers, default=_epoch(started))


def _labels(labels: Mapping[str, object]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items()) + "}" if labels else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _epoch(when: str) -> float:
    return times.seconds_of(when)
