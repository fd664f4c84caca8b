"""A group's spec in the form that the rest of the controller takes: seconds and the ports of probes are whole numbers.

The first builds took fractions of a second, so stored groups may have them. The API server still takes them, since it must not
refuse a change of a stored group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness import phrases
from harness.errors import Fault

_SECONDS = {"leaseSeconds": 1.0, "expirySeconds": 1.0, "drainSeconds": 0.0}
_PROBE_SECONDS = {"initialDelaySeconds": 0.0, "periodSeconds": 0.1, "timeoutSeconds": 0.0}
"""Each with the least value that was ever allowed. A smaller one is not rounded, so that it stays a fault."""
_CALLS = ("httpGet", "tcpSocket", "grpc")
_ANY_PORT = 1
"""Stands for a name that is a fault, so that the same name is not reported a second time."""


@dataclass(frozen=True, slots=True)
class PlainSpec:
    """`warnings`: what the group's author should change, each with its dotted path. The group can be used without that."""

    spec: Any
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()


def plain(spec: Any, *, probes_in_template: bool) -> PlainSpec:
    """`probes_in_template`: whether probes may be there without a warning. What is no spec by its shape is returned as it is."""
    if not isinstance(spec, Mapping):
        return PlainSpec(spec)
    template = spec.get("template")
    writer = _Writer(_tcp_ports(template))
    made = writer.whole(spec, "spec", _SECONDS)
    if "probes" in made:
        made["probes"] = writer.probes(made["probes"], "spec.probes")
    if isinstance(template, Mapping) and template.get("probes"):
        if not probes_in_template:
            writer.warnings.insert(0, "spec.template.probes is deprecated: move its entries to spec.probes")
        made["template"] = {**template, "probes": writer.probes(template["probes"], "spec.template.probes")}
    return PlainSpec(made, tuple(writer.faults), tuple(writer.warnings))


def _tcp_ports(template: Any) -> dict[str, int]:
    """By name."""
    ports = template.get("ports") if isinstance(template, Mapping) else None
    found: dict[str, int] = {}
    for port in ports if isinstance(ports, list) else ():
        if not isinstance(port, Mapping) or port.get("protocol") not in ("TCP", None):
            continue
        name = port.get("name")
        number = port.get("port")
        if isinstance(name, str) and name and number is not None:
            found[name] = number
    return found


class _Writer:
    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = ports
        self.faults: list[Fault] = []
        self.warnings: list[str] = []

    def probes(self, probes: Any, path: str) -> Any:
        if not isinstance(probes, list):
            return probes
        return [self._probe(probe, f"{path}[{index}]") for index, probe in enumerate(probes)]

    def _probe(self, probe: Any, path: str) -> Any:
        if not isinstance(probe, Mapping):
            return probe
        made = self.whole(probe, path, _PROBE_SECONDS)
        for kind in _CALLS:
            call = made.get(kind)
            if isinstance(call, Mapping) and isinstance(call.get("port"), str):
                made[kind] = {**call, "port": self._port(call["port"], f"{path}.{kind}.port")}
        return made

    def whole(self, data: Mapping[str, Any], path: str, names: Mapping[str, float]) -> dict[str, Any]:
        """`data` with whole seconds. It rounds up: no time becomes shorter than what was asked for, and none becomes 0."""
        made = dict(data)
        for name, least in names.items():
            seconds = made.get(name)
            if not isinstance(seconds, float) or not math.isfinite(seconds) or seconds < least:
                continue
            made[name] = math.ceil(seconds)
            if made[name] != seconds:
                self.warnings.append(f"{path}.{name}: {seconds} counts as {made[name]}: write whole seconds")
        return made

    def _port(self, name: str, path: str) -> Any:
        if name.isdecimal():
            return name
        if name in self._ports:
            return self._ports[name]
        there = ", ".join(self._ports) or "none"
        text = f"{name!r:.60} is not the name of a TCP port in spec.template.ports, which has {there}"
        self.faults.append(Fault(path, text, phrases.near(name, self._ports)))
        return _ANY_PORT
