"""Counters and gauges in Prometheus' text form."""

from __future__ import annotations

import collections
from collections.abc import Iterable

from controller.fleet import Fleet
from controller.replicas import Replicas

FAMILIES = {
    "meshexp_controller_requests_total": ("counter", "Answers by call and code."),
    "meshexp_controller_workloads": ("gauge", "ExternalWorkloads of this controller by group and readiness."),
    "meshexp_controller_held_requests": ("gauge", "Machines that wait for a change."),
    "meshexp_controller_leader": ("gauge", "1 on the replica that leads."),
    "meshexp_controller_store_connected": ("gauge", "1 while the store takes this replica's writes."),
}


class Metrics:
    def __init__(self, fleet: Fleet, replicas: Replicas) -> None:
        self._fleet, self._replicas = fleet, replicas
        self._requests: collections.Counter[tuple[str, str]] = collections.Counter()

    def answered(self, call: str, code: str) -> None:
        self._requests[call, code] += 1

    def render(self) -> str:
        workloads: collections.Counter[tuple[str, str, str]] = collections.Counter()
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
        return "".join(line for name, values in samples.items() for line in _family(name, values))


def _family(name: str, values: Iterable[tuple[str, int]]) -> Iterable[str]:
    kind, text = FAMILIES[name]
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for labels, value in values:
        yield f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"
