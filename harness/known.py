"""What is known so far: of this machine, and how far the join has come. Plain values, from which `desired` follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.anchors import Adopted
from harness.errors import UnreadableError, UnwritableError
from harness.messages import Registration
from harness.specs import Route, User
from harness.values import HostPort, IPAddress, IPNetwork, PortRange

if TYPE_CHECKING:
    from harness.system.workload_api import Svid


@dataclass(frozen=True, slots=True)
class Others:
    """What the other workloads of this machine have for themselves: uids, and what their harnesses call."""

    proxies: tuple[int, ...] = ()
    users: tuple[int, ...] = ()
    servers: tuple[IPAddress, ...] = ()


KEPT_SECONDS = 900.0
MOST_KEPT = 32


@dataclass(frozen=True, slots=True)
class Told:
    """What a server's name has led to. Some name servers tell one of several addresses each time: each stays for KEPT_SECONDS
    after it was told last, so that the rules do not change with every answer."""

    server: HostPort
    last: tuple[tuple[IPAddress, float], ...] = ()
    """When each was told last, by a clock that only grows. Sorted by address."""

    def again(self, addresses: Iterable[IPAddress], now: float) -> Told:
        """With a new answer."""
        last = {address: when for address, when in self.last if now - when < KEPT_SECONDS}
        last |= dict.fromkeys(addresses, now)
        latest = sorted(last.items(), key=lambda item: -item[1])[:MOST_KEPT]
        return Told(self.server, tuple(sorted(latest, key=lambda item: str(item[0]))))


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found out about this machine. `addresses`: by which it speaks to the cluster, the last ones while it has none."""

    user: User
    hostname: str
    instance_id: str
    addresses: tuple[IPAddress, ...]
    anchors_pem: str = field(repr=False)
    workload_api: str
    never_inbound: tuple[PortRange, ...]
    never_outbound: tuple[PortRange, ...]  # ports that no redirect may take: SSH's, and those of the mesh itself
    ipv6: bool
    v6only: bool = False  # net.ipv6.bindv6only: a socket for `::` takes no IPv4
    dns_user: User | None = None
    spire_server: User | None = None
    spire_agent: User | None = None
    probe_user: User | None = None
    spire_told: Told | None = field(default=None, compare=False)
    """Of a remote SPIRE server: reached without the proxy, which needs it."""
    users: tuple[int, ...] = ()  # whose connections are this workload's
    others: Others = Others()
    unread: tuple[UnreadableError, ...] = field(default=(), compare=False)
    """Files and folders of the other workloads: what those have for themselves may be more than `others`."""
    subnets: tuple[Route, ...] = ()  # of its own links
    gateways: tuple[IPAddress, ...] = ()  # of its default routes
    resolvers: tuple[IPAddress, ...] = ()  # the DNS servers that it asked before this harness ran
    ssh_peers: tuple[IPAddress, ...] = field(default=(), compare=False)  # of the SSH sessions that stand
    unaddressed: str = ""  # why it has no address at present
    controller_at: tuple[IPAddress, ...] = field(default=(), compare=False)
    """What its name led to the last time. Not compared: a name server may tell its addresses in another order each time."""
    # Why a restart could not go on with instance_id.
    unkept: UnwritableError | UnreadableError | None = field(default=None, compare=False)
    adopted: Adopted | None = None  # of the trust anchors that the controller told; None where only the file counts

    @property
    def spire_addresses(self) -> tuple[IPAddress, ...]:
        return tuple(address for address, _ in self.spire_told.last) if self.spire_told else ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the controller told and this machine does not take.

    `path`: its place in the message. `why`: the rest of a sentence that begins with the value. `key`: of the configuration, which
    sets the limit.
    """

    path: str
    value: str
    why: str
    key: str

    def __str__(self) -> str:
        return f"{self.path}: {self.value} {self.why}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the join has come. `registration` is the last one known, also while the controller is away."""

    svid: Svid | None = None
    identity_served: bool = False
    """The Workload API answers: a proxy that starts now gets its certificate."""
    left_alone: bool = True
    """By the rules of this machine's other workloads, for which the proxy's own connections are a program's like any."""
    registration: Registration | None = None
    """Without what was refused."""
    refused: tuple[Refusal, ...] = ()
    probe_failure: str | None = None
    probes_decided: bool = True
    proxy_certified: bool = False
    proxy_lost_seconds: float = 0.0
    redirected: bool = False
    member: tuple[IPNetwork, ...] | None = None
    """The mesh's networks, as far as they were known while this machine was a member that must send them no plaintext. Kept over
    restarts and boots; None when it never was such a member."""
    cordon: str | None = None
    """The operator's reason, while traffic is to be kept away."""
