"""Counters and gauges in Prometheus' text form."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable

from controller.fleet import Fleet
from controller.replicas import Replicas
from controller.store import Gap, Store

FAMILIES = {
    "meshexp_controller_requests_total": ("counter", "Answers by call and code."),
    "meshexp_controller_workloads": (
        "gauge",
        "ExternalWorkloads of this controller by group and readiness; 0 for a group that has none.",
    ),
    "meshexp_controller_held_requests": ("gauge", "Machines that wait for a change."),
    "meshexp_controller_leader": ("gauge", "1 on the replica that leads."),
    "meshexp_controller_store_connected": ("gauge", "1 while the store takes this replica's writes."),
    "meshexp_controller_store_missing_kinds": (
        "gauge",
        "Kinds of objects that the API server lacks, or does not let us read.",
    ),
    "meshexp_controller_store_unreadable_objects": (
        "gauge",
        "Objects that the controller ignores, as a whole or in part, because a value in them is wrong.",
    ),
    "meshexp_controller_store_refused_writes_total": (
        "counter",
        "Writes that the API server refused because they are forbidden or invalid.",
    ),
    "meshexp_controller_certificate_expiry_timestamp_seconds": (
        "gauge",
        "The end, in epoch seconds, of the certificate that the controller shows to machines.",
    ),
    "meshexp_controller_certificate_lifetime_seconds": ("gauge", "The time from the beginning to the end of that certificate."),
}


class Metrics:
    """`store`, `gaps`: how many writes were refused, and what cannot be used.

    `validity`: beginning and end of the certificate in use, in epoch seconds; None before there is one."""

    def __init__(
        self,
        fleet: Fleet,
        replicas: Replicas,
        validity: Callable[[], tuple[float, float] | None],
        store: Store,
        gaps: Callable[[], tuple[Gap, ...]],
    ) -> None:
        self._store, self._gaps = store, gaps
        self._fleet = fleet
        self._replicas = replicas
        self._validity = validity
        self._requests: collections.Counter[tuple[str, str]] = collections.Counter()

    def answered(self, call: str, code: str) -> None:
        self._requests[call, code] += 1

    def render(self) -> str:
        # A group without machines has samples of 0, so that an alert about it does not end when its last machine is deleted.
        workloads = collections.Counter(
            {(key.namespace, key.name, ready): 0 for key in self._fleet.all_groups() for ready in ("false", "true")}
        )
        held = 0
        for record in self._fleet.records.values():
            workloads[record.member.namespace, record.member.group, str(record.workload.ready).lower()] += 1
            held += record.waiter is not None and not record.waiter.done()
        samples = {
            "meshexp_controller_requests_total": [(f'call="{c}",code="{r}"', n) for (c, r), n in sorted(self._requests.items())],
            "meshexp_controller_workloads": [
                (f'namespace="{n}",group="{g}",ready="{r}"', count) for (n, g, r), count in sorted(workloads.items())
            ],
            "meshexp_controller_held_requests": [("", held)],
            "meshexp_controller_leader": [("", int(self._replicas.leads))],
            "meshexp_controller_store_connected": [("", int(self._replicas.connected))],
        }
        gaps = self._gaps()
        samples["meshexp_controller_store_missing_kinds"] = [("", sum(not gap.name for gap in gaps))]
        samples["meshexp_controller_store_unreadable_objects"] = [("", sum(bool(gap.name) for gap in gaps))]
        samples["meshexp_controller_store_refused_writes_total"] = [("", self._store.refused)]
        if validity := self._validity():
            begins, ends = validity
            samples["meshexp_controller_certificate_expiry_timestamp_seconds"] = [("", round(ends))]
            samples["meshexp_controller_certificate_lifetime_seconds"] = [("", round(ends - begins))]
        return "".join(line for name, values in samples.items() for line in _family(name, values))


def _family(name: str, values: Iterable[tuple[str, int]]) -> Iterable[str]:
    kind, text = FAMILIES[name]
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for labels, value in values:
        yield f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"
