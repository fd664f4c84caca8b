"""What every category is given: the configuration, what the daemon says of itself, and what follows from both. No I/O."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from harness import proxy_environment
from harness.config import schema
from harness.messages import ClusterFacts, Registration
from harness.paths import Paths
from harness.system.workload_api import Delivered, Frame, Svid
from harness.values import HostPort, IPAddress, IPNetwork, SpiffeId

DEFAULT_TRUST_DOMAIN = "root.linkerd.cluster.local"


@dataclass(frozen=True, slots=True)
class Context:
    """`status`: what `meshexp status` reads. `anchors_pem` is empty when the file cannot be read."""

    config: schema.Config
    paths: Paths
    status: dict[str, Any]
    registration: Registration | None
    anchors_pem: str = field(repr=False)
    pre: bool
    wall: float
    frame: Frame | None = None
    """What the Workload API gave the proxy's user; None where it was not asked."""

    @property
    def svid(self) -> Svid | None:
        found = self.frame.svids if isinstance(self.frame, Delivered) else ()
        return next((svid for svid in found if svid.spiffe_id == self.spiffe_id), None)

    @property
    def running(self) -> bool:
        return self.status.get("phase") not in ("Stopped", "Waiting")

    @property
    def facts(self) -> ClusterFacts:
        return self.registration.facts if self.registration else ClusterFacts()

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        return proxy_environment.cluster_networks(self.config, self.facts)

    @property
    def spiffe_id(self) -> SpiffeId:
        configured = self.config.identity.spiffe_id
        return configured or SpiffeId(DEFAULT_TRUST_DOMAIN, f"/{self.config.workload.group}")

    @property
    def socket(self) -> str:
        """Of the Workload API that the proxy asks."""
        if self.config.identity.mode is schema.IdentityMode.EXTERNAL:
            return self.config.identity.socket.removeprefix("unix:").replace("///", "/")
        return str(self.paths.workload_api)

    @property
    def destination(self) -> tuple[HostPort, str] | None:
        """Address and TLS name of Linkerd's destination service; None while nobody has told where it is."""
        linkerd, configured = self.facts.linkerd, self.config.proxy.destination_address
        if configured is None and self.registration is None:
            return None
        name = linkerd.destination_identity or proxy_environment.DESTINATION_IDENTITY
        return configured or linkerd.destination_address or proxy_environment.DESTINATION, name

    @property
    def policy(self) -> tuple[HostPort, str] | None:
        linkerd, configured = self.facts.linkerd, self.config.proxy.policy_address
        if configured is None and self.registration is None:
            return None
        name = linkerd.policy_identity or linkerd.destination_identity or proxy_environment.DESTINATION_IDENTITY
        return configured or linkerd.policy_address or proxy_environment.POLICY, name


def address_of(endpoint: HostPort) -> IPAddress | None:
    """None when it is a name."""
    try:
        return ipaddress.ip_address(endpoint.host)
    except ValueError:
        return None
