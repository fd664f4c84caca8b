"""What each part of the machine is given to bring about: plain values, made by `desired`, compared and acted on elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.messages import Probe, Reason, RegistrationRequest
from harness.values import HostPort, IPAddress, IPNetwork, SpiffeId

if TYPE_CHECKING:
    from harness.system.workload_api import Svid

ROUTE_PROTOCOL = 0x4D  # our own rtnetlink protocol number ('M'): what `ip route` shows as proto 77 is ours, and nothing else is


@dataclass(frozen=True, slots=True)
class User:
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """A route of the main table. `via` is None for a directly connected network."""

    network: IPNetwork
    via: IPAddress | None
    protocol: int = ROUTE_PROTOCOL

    def __str__(self) -> str:
        return f"route {self.network}" + (f" via {self.via}" if self.via else "")


@dataclass(frozen=True, slots=True)
class DnsSpec:
    """Names of `domain` are asked of `servers`, all others of whoever was asked before. `user` is dnsmasq's, if there is one."""

    domain: str
    servers: tuple[HostPort, ...]
    search: tuple[str, ...] = ()
    ndots: int | None = None
    user: User | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    ca_cert: str
    ca_key: str
    svid_ttl: float


@dataclass(frozen=True, slots=True)
class SpireServer:
    """A SPIRE server on this machine; `path` is None to look for the program."""

    path: str | None
    user: User
    ca_cert: str
    ca_key: str
    allow_root_key: bool
    svid_ttl: float


@dataclass(frozen=True, slots=True)
class SpireAgent:
    """Attests to its server by a file: a token or a key pair. With neither the server is our own, and so is the key pair."""

    path: str | None
    user: User
    server: HostPort
    join_token_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class IdentitySpec:
    """`anchors_pem`: what the SPIRE programs trust at first."""

    spiffe_id: SpiffeId
    socket: str
    user: User
    embedded: EmbeddedServer | None = None
    server: SpireServer | None = None
    agent: SpireAgent | None = None
    anchors_pem: str = field(default="", repr=False)

    def serves_like(self, other: IdentitySpec) -> bool:
        """Whether the SVIDs of one are those of the other: other anchors take none away."""
        return replace(self, anchors_pem="") == replace(other, anchors_pem="")


@dataclass(frozen=True, slots=True)
class Target:
    """Where the controller is and how to know it."""

    address: HostPort
    identity: str
    anchors_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Readiness:
    ready: bool
    reason: Reason
    message: str = ""


@dataclass(frozen=True, slots=True)
class RegistrationSpec:
    target: Target
    request: RegistrationRequest
    svid: Svid
    readiness: Readiness


@dataclass(frozen=True, slots=True)
class Check:
    """A probe, and for one of kind exec what this machine allows under its name (nothing: None), as `user`."""

    probe: Probe
    command: tuple[str, ...] | None = None
    user: User | None = None


@dataclass(frozen=True, slots=True)
class ProxySpec:
    path: str
    user: User
    env: tuple[tuple[str, str], ...] = field(repr=False)
    ports: tuple[int, ...]
    overridden: tuple[str, ...]
    """Variables that the operator set by hand."""
    admin_port: int
    start_timeout: float
    shutdown_grace: float
