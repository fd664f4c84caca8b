"""What one machine needs to join: a file that the administrator's `meshexp-controller invite` writes and `meshexp join` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from harness.messages import PodRoute
from harness.texts import Pem, Token
from harness.values import Domain, Endpoint, Label, Most, Network, Spiffe

VERSION = 1


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """PEM: the machine's intermediate, the chain above it without the root, its key."""

    certificate_pem: Pem
    key_pem: Pem


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    server_address: Endpoint
    join_token: Token


@dataclass(frozen=True, slots=True)
class Invitation:
    """`token`: shown once, at the first registration (RegistrationRequest.invitation). `expires`: seconds since the epoch.

    Exactly one of `local` and `agent` is set. The routes are those of the moment: the machine has to reach the controller
    before the controller can tell it more. `allow`: the networks within which all that the controller tells must be, if any.
    """

    version: int
    token: Token
    expires: float
    controller_address: Endpoint
    controller_identity: Domain
    trust_anchors_pem: Pem
    group: Label
    namespace: Label
    spiffe_id: Spiffe
    pod_routes: Annotated[tuple[PodRoute, ...], Most(20_000)] = ()
    service_cidrs: Annotated[tuple[Network, ...], Most(256)] = ()
    cluster_domain: Domain = "cluster.local"
    local: LocalIdentity | None = None
    agent: AgentIdentity | None = None
    allow: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"an invitation of version {self.version}; this program knows {VERSION}")
        if (self.local is None) == (self.agent is None):
            raise ValueError("an invitation has either a local identity or an agent's")
