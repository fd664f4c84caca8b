"""From a group and what is known of a machine to its ExternalWorkload, and to what the machine is told. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from controller import model, naming
from controller.manifest import GROUP_KIND, ExternalGroup
from controller.model import (
    READY,
    Condition,
    EndpointPort,
    ExternalWorkload,
    Key,
    MeshTLS,
    Metadata,
    OwnerReference,
    Status,
    WorkloadIP,
    WorkloadSpec,
)
from harness import terminal
from harness.decode import encode
from harness.messages import PROXY_PORT, PROXY_PORT_NAME, ClusterFacts, Registration, StateReport, Template, WorkloadPort
from harness.values import IPAddress, SpiffeId

GROUP_LABEL = "workload.meshexp.io/group"
INSTANCE = "workload.meshexp.io/instance"
GENERATION = "workload.meshexp.io/generation"
_GENERATION = re.compile("[0-9]{1,18}")
SECRET_HASH = "workload.meshexp.io/secret-sha256"  # noqa: S105  (the name of an annotation)
HOSTNAME = "workload.meshexp.io/hostname"
TEMPLATE = "workload.meshexp.io/template"
UNREACHABLE = "Unreachable"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `report`: a machine reports at least so often."""

    lease: float = 30.0
    expiry: float = 900.0
    drain: float = 2.0

    @property
    def report(self) -> float:
        return self.lease / 3

    def of(self, group: ExternalGroup) -> Times:
        """The group's own times where it has any. A workload stays for as long as its address is reserved: two leases."""
        spec = group.spec
        lease = self.lease if spec.lease_seconds is None else spec.lease_seconds
        expiry = self.expiry if spec.expiry_seconds is None else spec.expiry_seconds
        return Times(lease, max(2 * lease, expiry), self.drain if spec.drain_seconds is None else spec.drain_seconds)


@dataclass(frozen=True, slots=True)
class Membership:
    """What the controller must remember of a machine; all of it is on the ExternalWorkload."""

    namespace: str
    group: str
    instance: str
    generation: int
    identity: SpiffeId
    addresses: tuple[IPAddress, ...]
    hostname: str
    secret_hash: str
    inbound_port: int = PROXY_PORT

    @property
    def key(self) -> Key:
        return Key(self.namespace, naming.workload_name(self.group, self.instance, self.generation))

    @property
    def group_key(self) -> Key:
        return Key(self.namespace, self.group)


def membership(workload: ExternalWorkload) -> Membership | None:
    """What an ExternalWorkload says of its machine; None when this controller did not make it."""
    metadata = workload.metadata
    marks = metadata.annotations
    group, instance = metadata.labels.get(GROUP_LABEL), marks.get(INSTANCE)
    # Anybody who may edit the object may write anything there. int() takes no ², which isdigit() calls a digit.
    if not group or not instance or not _GENERATION.fullmatch(marks.get(GENERATION, "")):
        return None
    return Membership(
        metadata.namespace,
        group,
        instance,
        int(marks[GENERATION]),
        workload.spec.mesh_tls.identity,
        tuple(entry.ip for entry in workload.spec.workload_ips),
        marks.get(HOSTNAME, ""),
        marks.get(SECRET_HASH, ""),
        workload.inbound_port,
    )


def workload(group: ExternalGroup, member: Membership, cluster_domain: str) -> ExternalWorkload:
    """Only the preferred address. Of two, behind a dual-stack Service, Linkerd makes a slice of each family but tells proxies one
    address of them, by chance which: seen on the real control plane, as calls that end in 504 (tests/linkerd/test_cluster.py)."""
    template, key = group.spec.template, member.key
    marks = {
        INSTANCE: member.instance,
        GENERATION: str(member.generation),
        SECRET_HASH: member.secret_hash,
        HOSTNAME: member.hostname,
        TEMPLATE: version_of(template.metadata),
    }
    owner = OwnerReference(group.api_version, GROUP_KIND, group.metadata.name, group.metadata.uid)
    return ExternalWorkload(
        Metadata(
            key.name,
            key.namespace,
            labels=template.metadata.labels | {GROUP_LABEL: group.metadata.name},
            annotations=template.metadata.annotations | marks,
            owner_references=(owner,),
        ),
        WorkloadSpec(
            MeshTLS(member.identity, naming.server_name(key.name, key.namespace, cluster_domain)),
            tuple(WorkloadIP(address) for address in member.addresses[:1]),
            (*(EndpointPort(port.port, port.name, port.protocol) for port in _ports(group)), *_inbound(member)),
        ),
    )


def _ports(group: ExternalGroup) -> Iterable[WorkloadPort]:
    """The workload's own. Where its proxy is the machine says, and no template."""
    return (port for port in group.spec.template.ports if port.name != PROXY_PORT_NAME)


def _inbound(member: Membership) -> Iterable[EndpointPort]:
    if member.inbound_port != PROXY_PORT:
        yield EndpointPort(member.inbound_port, PROXY_PORT_NAME)


def is_another(wanted: ExternalWorkload, current: ExternalWorkload) -> bool:
    """Whether it needs a new name: Linkerd passes on neither a new identity nor a new inbound port of an object that it knows."""
    return (wanted.spec.mesh_tls, wanted.inbound_port) != (current.spec.mesh_tls, current.inbound_port)


def update(current: ExternalWorkload, wanted: ExternalWorkload) -> ExternalWorkload | None:
    """The object to write so that `current` becomes `wanted`; None when nothing differs.

    Labels and annotations that others added are no difference; the template's digest differs when one of ours is to go.
    """
    mine, theirs = wanted.metadata, current.metadata
    same = (
        mine.labels.items() <= theirs.labels.items()
        and mine.annotations.items() <= theirs.annotations.items()
        and mine.owner_references == theirs.owner_references
        and wanted.spec == current.spec
    )
    if same:
        return None
    metadata = dataclasses.replace(
        theirs, labels=mine.labels, annotations=mine.annotations, owner_references=mine.owner_references
    )
    return ExternalWorkload(metadata, wanted.spec, current.status)


def with_readiness(current: ExternalWorkload, ready: bool, reason: str, message: str, wall: float) -> ExternalWorkload | None:
    """`current` with that Ready condition; None when Ready would not flip.

    Linkerd logs an error for every status write that does not flip it, and wakes every watcher: a reason alone is not written.
    """
    if current.ready is ready:
        return None
    condition = Condition(READY, "True" if ready else "False", reason, message[:1024], model.time(wall))
    return dataclasses.replace(current, status=Status((condition,)))


def readiness(report: StateReport | None, unreachable_for: float | None) -> tuple[bool, str, str]:
    """Ready, reason and message that follow from the last report and the silence since (seconds, None while the lease holds)."""
    if unreachable_for is not None:
        return False, UNREACHABLE, f"no report for {unreachable_for:.0f} s"
    if report is None:
        return False, "Starting", ""
    # What a machine says is shown by other people's commands too, such as `kubectl describe`: it is one line, and plain text.
    return report.ready, report.reason.value, " ".join(terminal.harmless(report.message).split())


def version_of(value: object) -> str:
    """A short digest of a message, the same for equal values."""
    text = json.dumps(encode(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def registration(group: ExternalGroup, current: ExternalWorkload, facts: ClusterFacts, times: Times) -> Registration:
    """What the machine is told; without a version."""
    metadata, mesh_tls = current.metadata, current.spec.mesh_tls
    return Registration(
        name=metadata.name,
        namespace=metadata.namespace,
        version="",
        identity=mesh_tls.identity,
        server_name=mesh_tls.server_name,
        template=Template(group.spec.template.ports, group.spec.template.metadata.labels),
        probes=group.probes,
        facts=facts,
        lease_seconds=times.lease,
        report_seconds=times.report,
        drain_seconds=times.drain,
    )
