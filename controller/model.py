"""The Kubernetes objects that the controller reads and writes, as values. Field names are Kubernetes' own in snake case."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from harness.decode import decode, encode
from harness.messages import PROXY_PORT, PROXY_PORT_NAME
from harness.values import Address, IPAddress, Spiffe

WORKLOAD_API = "workload.linkerd.io/v1beta1"
LEASE_API = "coordination.k8s.io/v1"
READY = "Ready"
_MOST_SECONDS = 2**31 - 1
"""Kubernetes' own limit of a Lease's duration."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class OwnerReference:
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = True
    block_owner_deletion: bool = False


@dataclass(frozen=True, slots=True)
class Metadata:
    """The store alone sets uid, resource_version, generation and creation_timestamp; they are empty before."""

    name: str
    namespace: str
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)

    def to_object(self) -> dict[str, object]:
        return {name: value for name, value in encode(self, camel=True).items() if value}


@dataclass(frozen=True, slots=True)
class Condition:
    """`status` is True, False or Unknown, as text; `last_transition_time` is RFC 3339."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    conditions: tuple[Condition, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.conditions if c.type == kind), None)


@dataclass(frozen=True, slots=True)
class MeshTLS:
    identity: Spiffe
    server_name: str


@dataclass(frozen=True, slots=True)
class WorkloadIP:
    ip: Address


@dataclass(frozen=True, slots=True)
class EndpointPort:
    port: int
    name: str = ""
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    mesh_tls: MeshTLS
    workload_ips: tuple[WorkloadIP, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


@dataclass(frozen=True, slots=True)
class ExternalWorkload:
    """Linkerd's object for a machine outside the cluster; a ready one becomes an endpoint of the Services that select it."""

    metadata: Metadata
    spec: WorkloadSpec
    status: Status = Status()

    @property
    def ready(self) -> bool:
        """As Linkerd reads it: anything but a Ready condition that is True is not ready."""
        condition = self.status.condition(READY)
        return condition is not None and condition.status == "True"

    @property
    def endpoints(self) -> tuple[tuple[IPAddress, int], ...]:
        """The IP:port pairs; Linkerd cannot look up one that two workloads share."""
        return tuple((entry.ip, port.port) for entry in self.spec.workload_ips for port in self.spec.ports)

    @property
    def inbound_port(self) -> int:
        """Where peers dial its proxy."""
        return next((port.port for port in self.spec.ports if port.name == PROXY_PORT_NAME), PROXY_PORT)

    def to_object(self) -> dict[str, object]:
        spec = encode(self.spec, camel=True)
        spec["ports"] = [{k: v for k, v in port.items() if v} for port in spec["ports"]]
        return {
            "apiVersion": WORKLOAD_API,
            "kind": "ExternalWorkload",
            "metadata": self.metadata.to_object(),
            "spec": spec,
            "status": encode(self.status, camel=True),
        }


def workload_from_object(data: object) -> ExternalWorkload:
    """Raises ConfigError for one that Linkerd could not use either (a bad IP, no identity)."""
    return decode(ExternalWorkload, data, source="ExternalWorkload", camel=True, lenient=True)


@dataclass(frozen=True, slots=True)
class Lease:
    """coordination.k8s.io: who holds something and until when. Times are seconds since the epoch."""

    metadata: Metadata
    holder: str
    renewed: float
    duration_seconds: float
    transitions: int = 0

    def to_object(self) -> dict[str, object]:
        spec = {
            "holderIdentity": self.holder,
            "renewTime": micro_time(self.renewed),
            "leaseDurationSeconds": max(1, round(self.duration_seconds)),
            "leaseTransitions": self.transitions,
        }
        return {"apiVersion": LEASE_API, "kind": "Lease", "metadata": self.metadata.to_object(), "spec": spec}


@dataclass(frozen=True, slots=True)
class _LeaseSpec:
    holder_identity: str = ""
    renew_time: str = ""
    lease_duration_seconds: int = 0
    lease_transitions: int = 0


@dataclass(frozen=True, slots=True)
class _LeaseObject:
    metadata: Metadata
    spec: _LeaseSpec = _LeaseSpec()


def lease_from_object(data: object) -> Lease:
    read = decode(_LeaseObject, data, source="Lease", camel=True, lenient=True)
    try:
        renewed = datetime.datetime.fromisoformat(read.spec.renew_time).timestamp() if read.spec.renew_time else 0.0
    except (ValueError, OverflowError):
        renewed = 0.0
    spec = read.spec
    return Lease(
        read.metadata,
        spec.holder_identity,
        renewed,
        float(min(spec.lease_duration_seconds, _MOST_SECONDS)),
        spec.lease_transitions,
    )


def micro_time(wall: float) -> str:
    """Kubernetes' MicroTime of seconds since the epoch."""
    return datetime.datetime.fromtimestamp(wall, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def time(wall: float) -> str:
    """Kubernetes' Time of seconds since the epoch."""
    return datetime.datetime.fromtimestamp(wall, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth knowing that happened to the group `about`; `warning` shows in kubectl describe as Warning.

    `api` and `uid`: of the group, for whoever looks events up by object.
    """

    about: Key
    reason: str
    message: str
    warning: bool = False
    api: str = ""
    uid: str = ""
