"""ExternalGroup, the object that people write: what the workloads of a group look like, how they are probed, who may join."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from controller.model import Condition, Key, Metadata
from controller.plain_spec import plain
from harness.decode import decode, encode
from harness.errors import ConfigError, Fault
from harness.messages import WorkloadPort
from harness.probe import Probe
from harness.texts import is_label_key, is_label_value, is_port_name
from harness.values import Network, parse_label, parse_spiffe_id

GROUP_API = "workload.meshexp.io/v1alpha1"
BUOYANT_GROUP_API = "workload.buoyant.io/v1alpha1"
GROUP_APIS = (GROUP_API, BUOYANT_GROUP_API)
GROUP_KIND = "ExternalGroup"

_PATTERNS = 64
_PATTERN_CHARACTERS = 2048
"""As in the definitions in deploy/crds. A folder of manifests has no API server before it."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TemplateMetadata:
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupTemplate:
    metadata: TemplateMetadata = TemplateMetadata()
    ports: tuple[WorkloadPort, ...] = ()
    probes: tuple[Probe, ...] = ()


class AddressProof(enum.Enum):
    """Whether a registered address has to be the one that the machine calls from. AUTO: where the controller can see that."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may join. No `spiffe_ids`: spiffe://<trust domain>/<namespace>/<group>, and without a namespace while no other group
    has the name. No `address_cidrs`: any. `require_invitation`: a machine that is new needs one.
    """

    spiffe_ids: tuple[str, ...] = ()
    address_cidrs: tuple[Network, ...] = ()
    maximum: int | None = None
    require_invitation: bool = False
    address_proof: AddressProof = AddressProof.AUTO


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Times that are None are the controller's. A silent workload is not ready after the lease, and deleted after the expiry."""

    template: GroupTemplate = GroupTemplate()
    probes: tuple[Probe, ...] = ()
    admission: Admission = Admission()
    lease_seconds: float | None = None
    expiry_seconds: float | None = None
    drain_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """`ready`: for people, such as 3/4. `probe`: what is probed, in short."""

    observed_generation: int = 0
    ready: str = ""
    ready_workloads: int = 0
    workloads: int = 0
    probe: str = ""
    conditions: tuple[Condition, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        return next((c for c in self.conditions if c.type == kind), None)


@dataclass(frozen=True, slots=True)
class ExternalGroup:
    """`fault`: why its spec cannot be used; the last one that could stays in force, and `spec` is empty where there was none.

    `warnings`: what in a spec that can be used is deprecated or rounded.
    """

    api_version: str
    metadata: Metadata
    spec: GroupSpec
    status: GroupStatus = GroupStatus()
    fault: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return self.metadata.key

    @property
    def is_usable(self) -> bool:
        """Otherwise nothing is known of what its machines are to have: they keep what they have."""
        return not self.fault or self.spec != GroupSpec()

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Older groups, and those of the other product, may have them under the template too: all count."""
        return self.spec.probes + self.spec.template.probes

    def to_object(self) -> dict[str, object]:
        return {
            "apiVersion": self.api_version,
            "kind": GROUP_KIND,
            "metadata": self.metadata.to_object(),
            "spec": encode(self.spec, camel=True),
            "status": encode(self.status, camel=True),
        }


def stored_group(data: Mapping[str, Any]) -> ExternalGroup:
    """A group as an API server has it: what an older schema let through is told in `fault`, so that the group does not vanish.

    Raises ConfigError for one without a usable name only.
    """
    try:
        return group_from_object(data, lenient=True)
    except ConfigError as error:
        metadata = decode(Metadata, data.get("metadata"), source="metadata", camel=True, lenient=True)
        fault = "; ".join(map(str, error.faults))
        return ExternalGroup(str(data["apiVersion"]), metadata, GroupSpec(), _status(data), fault)


def _status(data: Mapping[str, Any]) -> GroupStatus:
    """What another wrote there is overwritten, not an error."""
    try:
        return decode(GroupStatus, data.get("status") or {}, source="status", camel=True, lenient=True)
    except ConfigError:
        return GroupStatus()


def group_from_object(data: object, *, source: str = "ExternalGroup", lenient: bool = False) -> ExternalGroup:
    """Raises ConfigError with every fault. lenient: unknown keys of the spec are passed over, as from an API server."""
    faults: list[Fault] = []
    if not isinstance(data, Mapping):
        raise ConfigError((Fault("", "expected a mapping with apiVersion, kind, metadata and spec"),), source)
    if data.get("apiVersion") not in GROUP_APIS:
        faults.append(Fault("apiVersion", f"{data.get('apiVersion')!r} is not one of {', '.join(GROUP_APIS)}"))
    if data.get("kind") != GROUP_KIND:
        faults.append(Fault("kind", f"{data.get('kind')!r} is not {GROUP_KIND}"))
    for key in data.keys() - {"apiVersion", "kind", "metadata", "spec", "status"}:
        faults.append(Fault(str(key), "unknown key"))
    metadata = _part(Metadata, data.get("metadata"), "metadata", True, faults)
    made = plain(data.get("spec") or {}, probes_in_template=data.get("apiVersion") == BUOYANT_GROUP_API)
    faults.extend(made.faults)
    spec = _part(GroupSpec, made.spec, "spec", lenient, faults)
    if metadata is not None:
        faults.extend(_label_fault(value, path) for value, path in _names(metadata) if not _is_label(value))
    if spec is not None:
        faults.extend(_spec_faults(spec))
    if faults or metadata is None or spec is None:
        raise ConfigError(tuple(faults), source)
    return ExternalGroup(str(data["apiVersion"]), metadata, spec, _status(data), warnings=made.warnings)


def _part(cls: type[T], data: Any, path: str, lenient: bool, faults: list[Fault]) -> T | None:
    try:
        return decode(cls, data, source=path, camel=True, lenient=lenient, path=path)
    except ConfigError as error:
        faults.extend(error.faults)
        return None


def _names(metadata: Metadata) -> tuple[tuple[str, str], ...]:
    return (metadata.name, "metadata.name"), (metadata.namespace, "metadata.namespace")


def _is_label(value: str) -> bool:
    try:
        return bool(parse_label(value))
    except ValueError:
        return False


def _label_fault(value: str, path: str) -> Fault:
    return Fault(path, f"{value!r} is not a DNS label (a-z, 0-9 and dash, at most 63 characters)")


def _spec_faults(spec: GroupSpec) -> Iterable[Fault]:
    labels = spec.template.metadata.labels
    for key, value in labels.items():
        if not is_label_key(key) or not is_label_value(value):
            yield Fault(f"spec.template.metadata.labels.{key}", f"{key}={value} is not a Kubernetes label")
    seen: set[object] = set()
    for index, port in enumerate(spec.template.ports):
        path = f"spec.template.ports[{index}]"
        if port.name and not is_port_name(port.name):
            yield Fault(f"{path}.name", f"{port.name!r} is not a port name (a-z, 0-9 and dash, at most 15 characters)")
        if port.protocol not in ("TCP", "UDP"):
            yield Fault(f"{path}.protocol", f"{port.protocol!r} is not TCP or UDP")
        for which, identity in (("name", port.name or None), ("port", (port.port, port.protocol))):
            if identity in seen and identity is not None:
                yield Fault(f"{path}.{which}", "occurs twice")
            seen.add(identity)
    if len(spec.admission.spiffe_ids) > _PATTERNS:
        yield Fault(
            "spec.admission.spiffeIDs", f"has {len(spec.admission.spiffe_ids)} entries, and at most {_PATTERNS} are taken"
        )
    for index, pattern in enumerate(spec.admission.spiffe_ids[:_PATTERNS]):
        yield from _pattern_faults(pattern, f"spec.admission.spiffeIDs[{index}]")
    yield from _number_faults(spec)


def _pattern_faults(pattern: str, path: str) -> Iterable[Fault]:
    if len(pattern) > _PATTERN_CHARACTERS:
        yield Fault(path, f"has {len(pattern)} characters, and at most {_PATTERN_CHARACTERS} are taken")
        return
    try:
        parse_spiffe_id(pattern.replace("*", "x"))
    except ValueError:
        yield Fault(path, f"{pattern!r} is not a SPIFFE ID in which * stands for part of one path segment")
        return
    if "*" in pattern.removeprefix("spiffe://").partition("/")[0]:
        yield Fault(path, f"{pattern!r}: the trust domain may hold no *")


def _number_faults(spec: GroupSpec) -> Iterable[Fault]:
    if spec.admission.maximum is not None and spec.admission.maximum < 0:
        yield Fault("spec.admission.maximum", "must not be negative")
    times = (
        ("leaseSeconds", spec.lease_seconds, 1),
        ("expirySeconds", spec.expiry_seconds, 1),
        ("drainSeconds", spec.drain_seconds, 0),
    )
    for name, seconds, least in times:
        if seconds is not None and not least <= seconds <= 86400:
            yield Fault(f"spec.{name}", f"must be between {least} and 86400")
    if spec.lease_seconds and spec.expiry_seconds and spec.expiry_seconds < spec.lease_seconds:
        yield Fault("spec.expirySeconds", "must not be below leaseSeconds")
