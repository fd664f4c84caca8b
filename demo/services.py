"""Which address and port leads where: the rules of Linkerd's endpoint and destination controllers, as a pure function.

Input is decoded JSON, as Kubernetes has it: Services, Pods, HTTPRoutes, and ExternalWorkloads of `workload.linkerd.io/v1beta1`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.values import IPAddress

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A ready workload: peers dial `ip`:`port`, send `server_name` as SNI and expect `identity`.

    Without an identity (a Pod that has no proxy) peers speak plain text to it. A route's `backend` gets its `weight` of what
    all backends that have endpoints get.
    """

    ip: IPAddress
    port: int
    identity: str
    server_name: str
    name: str
    backend: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """`service` is `name.namespace.svc.cluster.local:port`, or None where the address is a workload's own, or nobody's."""

    service: str | None = None
    endpoints: tuple[Endpoint, ...] = ()


Table = Mapping[tuple[IPAddress, int], Entry]
NOBODY = Entry()


@dataclass(frozen=True, slots=True)
class Objects:
    """All that the table is made of."""

    services: Sequence[Object] = ()
    workloads: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    routes: Sequence[Object] = ()


def table(objects: Objects, previous: Table) -> Table:
    """The entry of each ClusterIP and port, and of each workload's own address and port.

    A workload with an unusable address blocks every update of the Services that select it, as on Linkerd: their entries
    stay as in `previous`.
    """
    entries = _workload_entries(objects.workloads)
    for service in objects.services:
        address = _cluster_ip(service)
        if address is None:
            continue
        for port in service["spec"]["ports"]:
            key = (address, port["port"])
            backends = [(backend, weight) for backend, weight in _backends(service, port, objects) if weight]
            if any(_is_blocked(backend, objects) for (backend, _), _ in backends):
                entries[key] = previous.get(key, NOBODY)
            else:
                entries[key] = _service_entry(service, port, backends, objects)
    return entries


def _cluster_ip(service: Object) -> IPAddress | None:
    """None for a Service whose endpoints are not made here."""
    spec = service["spec"]
    if service["metadata"]["namespace"] == "kube-system" or not spec.get("selector") or spec.get("type") == "ExternalName":
        return None
    return _address(spec.get("clusterIP"))


Backend = tuple[Object, Object]
"""A Service, and one of its ports."""


def _backends(service: Object, port: Object, objects: Objects) -> list[tuple[Backend, int]]:
    """Where a Service's connections go, with weights: to itself, unless an HTTPRoute has it as its parent.

    The development proxy balances connections, not requests: it takes the route's first rule for all of them, whatever that
    matches. A backend that is not there gets nothing, where Linkerd answers its share with errors.
    """
    namespace = service["metadata"]["namespace"]
    for route in objects.routes:
        if route["metadata"]["namespace"] != namespace:
            continue
        parents = [(p["name"], p.get("port", port["port"])) for p in route["spec"]["parentRefs"] if p.get("kind") == "Service"]
        if (service["metadata"]["name"], port["port"]) in parents:
            found = []
            for reference in route["spec"]["rules"][0]["backendRefs"]:
                backend = _find(objects.services, namespace, reference["name"], reference["port"])
                if backend is not None:
                    found.append((backend, int(reference.get("weight", 1))))
            return found
    return [((service, port), 1)]


def _find(services: Sequence[Object], namespace: str, name: str, number: int) -> Backend | None:
    for service in services:
        metadata = service["metadata"]
        if (metadata["namespace"], metadata["name"]) == (namespace, name):
            return next(((service, port) for port in service["spec"]["ports"] if port["port"] == number), None)
    return None


def _is_blocked(service: Object, objects: Objects) -> bool:
    selected = [workload for workload in objects.workloads if _selects(service, workload)]
    return any(_address(ip) is None for workload in selected for ip in _ips(workload))


def _service_entry(service: Object, port: Object, backends: list[tuple[Backend, int]], objects: Objects) -> Entry:
    metadata = service["metadata"]
    version = ipaddress.ip_address(service["spec"]["clusterIP"]).version
    name = f"{metadata['name']}.{metadata['namespace']}.svc.cluster.local:{port['port']}"
    endpoints = [
        dataclasses.replace(endpoint, backend=backend["metadata"]["name"], weight=weight)
        for (backend, backend_port), weight in backends
        for endpoint in _members(backend, backend_port, objects)
        if endpoint.ip.version == version
    ]
    return Entry(name, tuple(sorted(endpoints, key=lambda endpoint: (endpoint.ip, endpoint.port, endpoint.name))))


def _members(service: Object, port: Object, objects: Objects) -> Iterator[Endpoint]:
    for workload in objects.workloads:
        if _selects(service, workload) and _is_ready(workload) and (number := _declared(workload, port)) is not None:
            yield from _endpoints(workload, number)
    for pod in objects.pods:
        address = _address(pod.get("status", {}).get("podIP"))
        if _selects(service, pod) and _is_ready(pod) and address is not None:
            yield Endpoint(address, _container_port(pod, port), "", "", pod["metadata"]["name"])


def _container_port(pod: Object, service_port: Object) -> int:
    """The number of the Service's target port; a Pod need not declare a port that the Service names by its number."""
    target = service_port.get("targetPort", service_port["port"])
    declared = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
    return int(next((port["containerPort"] for port in declared if port.get("name") == target), target))


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
