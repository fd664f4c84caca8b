"""What each part of the machine is given to bring about: plain values, made by `desired`, compared and acted on elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.messages import Reason, RegistrationRequest
from harness.probe import Probe
from harness.values import HostPort, IPAddress, IPNetwork, SpiffeId

if TYPE_CHECKING:
    from harness.system.workload_api import Svid

MAIN_TABLE = 254
ROUTE_PROTOCOL = 0x4D  # our own rtnetlink protocol number ('M'): what `ip route` shows as proto 77 is ours, and nothing else is


@dataclass(frozen=True, slots=True)
class User:
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """`via` is None for a directly connected network. Metric 0 is the kernel's own choice: 0 with IPv4, 1024 with IPv6."""

    network: IPNetwork
    via: IPAddress | None
    protocol: int = ROUTE_PROTOCOL
    metric: int = 0
    table: int = MAIN_TABLE
    source: IPAddress | None = None
    """The address that this machine's own packets have, where the kernel is not to choose."""
    spares: tuple[IPAddress, ...] = field(default=(), compare=False)
    """Nodes that lead there too, should `via` fail: a wish, and no part of what the kernel holds."""
    keep: tuple[IPAddress, ...] = field(default=(), compare=False)
    """Addresses that must be reached as before."""
    link: str = field(default="", compare=False)
    """The link that it leads to, as far as the kernel names one: what is found, and no part of a wish."""

    def __post_init__(self) -> None:
        if self.network.version == 6 and self.metric == 0:
            object.__setattr__(self, "metric", 1024)

    def __str__(self) -> str:
        text = f"route {self.network}" + (f" via {self.via}" if self.via else "") + (f" src {self.source}" if self.source else "")
        text += f" metric {self.metric}" if self.metric != Route(self.network, None).metric else ""
        return text + (f" table {self.table}" if self.table != MAIN_TABLE else "")


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """All packets of an IP version are looked up in a table of ours before the main one."""

    table: int
    version: int

    def __str__(self) -> str:
        return f"rule for IPv{self.version}: table {self.table} before main"


Silent = tuple[frozenset[IPAddress], frozenset[IPAddress]]
"""Addresses that nobody answers at on their link; those that the kernel has just begun to look for."""


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
    decided: bool = True
    """False: too early to say, so what was last reported, maybe by the daemon before this one, stays."""


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
class ApplicationSpec:
    """`ports`: TCP ports of the group, which peers reach at `addresses`."""

    checks: tuple[Check, ...] = ()
    ports: tuple[int, ...] = ()
    addresses: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class ProxySpec:
    """`path` is None for the version in use. `waits_for`: what one that does not run is not started before; empty: now."""

    path: str | None
    user: User
    env: tuple[tuple[str, str], ...] = field(repr=False)
    ports: tuple[int, ...]
    overridden: tuple[str, ...]
    """Variables that the operator set by hand."""
    admin_port: int
    start_timeout: float
    waits_for: str
    shutdown_grace: float
