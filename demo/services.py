"""Which address and port leads where: the rules of Linkerd's endpoint and destination controllers, as a pure function.

Input is Kubernetes' own shape: Services, and ExternalWorkloads of `workload.linkerd.io/v1beta1`, as decoded JSON.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.values import IPAddress

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A ready workload: peers dial `ip`:`port`, send `server_name` as SNI and expect `identity`."""

    ip: IPAddress
    port: int
    identity: str
    server_name: str
    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """`service` is `name.namespace.svc.cluster.local:port`, or None where the address is a workload's own, or nobody's."""

    service: str | None = None
    endpoints: tuple[Endpoint, ...] = ()


Table = Mapping[tuple[IPAddress, int], Entry]
NOBODY = Entry()


def table(services: Iterable[Object], workloads: Iterable[Object], previous: Table) -> Table:
    """The entry of each ClusterIP and port, and of each workload's own address and port.

    A workload with an unusable address blocks every update of the Services that select it, as on Linkerd: their entries
    stay as in `previous`.
    """
    members = list(workloads)
    entries = _workload_entries(members)
    for service in services:
        spec = service["spec"]
        address = _address(spec.get("clusterIP"))
        if address is None or not spec.get("selector") or spec.get("type") == "ExternalName":
            continue
        if service["metadata"]["namespace"] == "kube-system":
            continue
        selected = [workload for workload in members if _selects(service, workload)]
        blocked = any(_address(ip) is None for workload in selected for ip in _ips(workload))
        for port in spec["ports"]:
            key = (address, port["port"])
            entries[key] = previous.get(key, NOBODY) if blocked else _service_entry(service, port, selected, address.version)
    return entries


def _service_entry(service: Object, port: Object, selected: Iterable[Object], family: int) -> Entry:
    metadata = service["metadata"]
    endpoints = [
        endpoint
        for workload in selected
        if _is_ready(workload) and (number := _declared(workload, port)) is not None
        for endpoint in _endpoints(workload, number)
        if endpoint.ip.version == family
    ]
    name = f"{metadata['name']}.{metadata['namespace']}.svc.cluster.local:{port['port']}"
    return Entry(name, tuple(sorted(endpoints, key=lambda endpoint: (endpoint.ip, endpoint.port, endpoint.name))))


def _workload_entries(workloads: Iterable[Object]) -> dict[tuple[IPAddress, int], Entry]:
    """A workload is meshed by its own address too, ready or not; not where two claim the same address and port."""
    found: dict[tuple[IPAddress, int], list[Endpoint]] = {}
    for workload in workloads:
        for port in workload["spec"].get("ports", ()):
            for endpoint in _endpoints(workload, port["port"]):
                found.setdefault((endpoint.ip, endpoint.port), []).append(endpoint)
    return {key: Entry(None, tuple(endpoints)) for key, endpoints in found.items() if len(endpoints) == 1}


def _endpoints(workload: Object, port: int) -> list[Endpoint]:
    mesh = workload["spec"].get("meshTLS", {})
    identity, server_name = mesh.get("identity", ""), mesh.get("serverName", "")
    if not identity or not server_name:
        return []
    name = workload["metadata"]["name"]
    addresses = [address for ip in _ips(workload) if (address := _address(ip)) is not None]
    return [Endpoint(address, port, identity, server_name, name) for address in addresses]


def _selects(service: Object, workload: Object) -> bool:
    labels = workload["metadata"].get("labels", {})
    same_namespace = service["metadata"]["namespace"] == workload["metadata"]["namespace"]
    return same_namespace and all(labels.get(key) == value for key, value in service["spec"]["selector"].items())


def _declared(workload: Object, service_port: Object) -> int | None:
    """The number of the Service's target port, which has to be among the workload's ports, unlike with a Pod."""
    target = service_port.get("targetPort", service_port["port"])
    protocol = service_port.get("protocol", "TCP")
    for port in workload["spec"].get("ports", ()):
        if target in (port["port"], port.get("name")) and port.get("protocol", "TCP") == protocol:
            return int(port["port"])
    return None


def _is_ready(workload: Object) -> bool:
    conditions = workload.get("status", {}).get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _ips(workload: Object) -> list[object]:
    return [item.get("ip") for item in workload["spec"].get("workloadIPs", ())]


def _address(text: object) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text) if isinstance(text, str) else None
    except ValueError:
        return None
