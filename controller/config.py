"""The controller's own configuration: one YAML file, and flags, which override it."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from controller.naming import CLUSTER_DOMAIN_LENGTH
from controller.rendering import Times
from harness import reading, yaml_text
from harness.decode import decode
from harness.errors import ConfigError, Fault
from harness.messages import ClusterFacts
from harness.values import Duration, Endpoint, HostPort, Label, Most, Ports, TrustDomain

_ANY = frozenset(("::", "0.0.0.0"))  # noqa: S104  (each is every address)


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """`tls_cert`, `tls_key`, `trust_anchors`: PEM files. `groups`: a directory of manifests. `facts`: a YAML file.

    `lease`, `expiry`, `drain`: for groups that do not say their own. `hold`: the longest that an answer is held.
    `kubernetes`: objects are an API server's (`kubeconfig`, else the pod's account), what machines are told is read there
    before it is taken from `facts`, and without files certificate and anchors are Linkerd's.
    `service_account`, `namespace`: the controller's own; without `namespace` it is that of the account or of the kubeconfig.
    `identity_token`: a token of the account for the audience identity.l5d.io.
    `listen`, `health_listen`: `[::]` is every address, of IPv4 and of IPv6; `0.0.0.0` is IPv4 alone.
    `admit_short_identities`: whether a new machine may have the SPIFFE ID /<group>, the default of version 0.1.
    `machine_ports`: inbound ports of machines that the controller's network policy lets it reach; all if empty.
    `fleet_listen`: where the fleet's page is, for everybody who reaches that address; nowhere if unset.
    """

    tls_cert: str = ""
    tls_key: str = ""
    trust_anchors: str = ""
    trust_domain: TrustDomain = "root.linkerd.cluster.local"
    kubernetes: bool = False
    kubeconfig: str = ""
    service_account: Label = "meshexp-controller"
    identity_token: str = "/var/run/secrets/tokens/linkerd-identity-token"  # noqa: S105  (a path)
    identity_address: Endpoint | None = None
    linkerd_namespace: Label = "linkerd"
    writes_per_second: float = 200.0
    listen: Endpoint = HostPort("::", 8081)  # machines outside the cluster are its clients, by IPv4 and by IPv6
    health_listen: Endpoint = HostPort("127.0.0.1", 9995)
    fleet_listen: Endpoint | None = None
    replica: str = ""
    namespace: str = ""
    groups: str = ""
    facts: str = ""
    lease: Duration = 30.0
    expiry: Duration = 900.0
    drain: Duration = 2.0
    hold: Duration = 55.0
    admit_short_identities: bool = True
    machine_ports: Annotated[tuple[Ports, ...], Most(64)] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.lease <= self.expiry:
            raise ValueError("lease must be at least 1s and at most expiry")
        if not self.kubernetes and not (self.tls_cert and self.tls_key and self.trust_anchors):
            raise ValueError("without kubernetes, tls_cert, tls_key and trust_anchors are required")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together")
        if not self.writes_per_second >= 1:
            raise ValueError("writes_per_second must be at least 1")
        if not self.hold >= 1:
            raise ValueError("hold must be at least 1s")
        for one, other in itertools.combinations(("listen", "health_listen", "fleet_listen"), 2):
            if _collide(getattr(self, one), getattr(self, other)):
                raise ValueError(f"{one} and {other} must have ports of their own")

    @property
    def times(self) -> Times:
        return Times(self.lease, self.expiry, self.drain)


def _collide(one: Endpoint | None, other: Endpoint | None) -> bool:
    """Whether one process cannot listen at both. For port 0 the kernel chooses a free port."""
    if one is None or other is None or one.port != other.port or one.port == 0:
        return False
    return one.host == other.host or not _ANY.isdisjoint((one.host, other.host))


def load(path: str | None, flags: Mapping[str, Any]) -> ControllerConfig:
    """Raises ConfigError with every fault."""
    data = read_yaml(path) if path else {}
    if not isinstance(data, Mapping):
        raise ConfigError((Fault("", "expected a mapping"),), path or "flags")
    return decode(ControllerConfig, {**data, **flags}, source=path or "flags")


def load_facts(config: ControllerConfig) -> ClusterFacts:
    """The cluster's facts; without trust anchors of their own they carry the controller's. Raises ConfigError."""
    data = read_yaml(config.facts) if config.facts else {}
    if isinstance(data, Mapping) and "trust_anchors_pem" not in data and config.trust_anchors:
        data = {**data, "trust_anchors_pem": read_text(config.trust_anchors)}
    facts = decode(ClusterFacts, data, source=config.facts or "facts")
    if not 1 <= len(facts.cluster_domain) <= CLUSTER_DOMAIN_LENGTH:
        raise ConfigError((Fault("cluster_domain", f"must have 1 to {CLUSTER_DOMAIN_LENGTH} characters"),), config.facts)
    return facts


def read_yaml(path: str) -> Any:
    try:
        return yaml_text.document(read_text(path)) or {}
    except ValueError as error:
        raise ConfigError((Fault("", str(error)),), path) from None


def read_text(path: str, key: str = "") -> str:
    """Raises ConfigError."""
    try:
        return reading.text(pathlib.Path(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError((Fault(key, str(error)),), path) from None
