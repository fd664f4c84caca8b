"""Every key of harness.yaml: its type, its default and one sentence, in one table. No I/O.

The loader, the environment variables, `meshexp config show` and the reference page all read this table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from harness.config.keys import key, section
from harness.config.schema_running import Backend as Backend
from harness.config.schema_running import Drain as Drain
from harness.config.schema_running import Log as Log
from harness.config.schema_running import LogFormat as LogFormat
from harness.config.schema_running import LogLevel as LogLevel
from harness.config.schema_running import Metrics as Metrics
from harness.config.schema_running import OnProxyLoss as OnProxyLoss
from harness.config.schema_running import Probes as Probes
from harness.config.schema_running import Proxy as Proxy
from harness.config.schema_running import Redirect as Redirect
from harness.values import Address, Domain, Duration, Endpoint, HostPort, Label, Network, Port, Spiffe


@dataclass(frozen=True, slots=True)
class Workload:
    group: Label = key("The ExternalGroup that this machine belongs to.")
    namespace: Label = key("The namespace of that group.")
    hostname: str | None = key("Name shown for this machine; the system's host name if unset.", None)
    instance_id: str | None = key("What makes this machine's name stable; random and kept in the state directory if unset.", None)
    addresses: tuple[Address, ...] = key(
        "Addresses that peers reach this machine at, at most one per family; found if empty.", ()
    )
    users: tuple[str, ...] = key(
        "System users (names or numbers) whose connections go through this workload's proxy; all but other workloads' if empty.",
        (),
    )


class AnchorsMode(enum.Enum):
    FOLLOW = "follow"  # what the controller tells is taken when the cluster's servers prove it
    PINNED = "pinned"  # the file alone


@dataclass(frozen=True, slots=True)
class Controller:
    address: Endpoint = key(
        "Where the autoregistration controller listens.", HostPort("meshexp-controller.meshexp.svc.cluster.local.", 8081)
    )
    identity: str = key(
        "The DNS identity that its certificate must carry.",
        "meshexp-controller.meshexp.serviceaccount.identity.linkerd.cluster.local",
    )
    trust_anchors: str = key(
        "File with Linkerd's trust anchors (PEM), which the controller is checked against.", "/etc/meshexp/trust-anchors.pem"
    )
    anchors: AnchorsMode = key(
        "Whether other anchors that the controller tells are taken once they are proven (follow), or only by hand (pinned).",
        AnchorsMode.FOLLOW,
    )


class IdentityMode(enum.Enum):
    EXTERNAL = "external"  # somebody else's Workload API socket
    LOCAL = "local"  # SPIRE server and agent on this machine, under an intermediate CA
    AGENT = "agent"  # SPIRE agent on this machine, its server elsewhere
    EMBEDDED = "embedded"  # a small one of ours, for demos only


@dataclass(frozen=True, slots=True)
class Embedded:
    ca_cert: str = key(
        "Certificate of the signing CA; further certificates after it are its chain up to the root.", "/opt/spire/certs/ca.crt"
    )
    ca_key: str = key("Key of that CA.", "/opt/spire/certs/ca.key")
    svid_ttl: Duration = key("Lifetime of an SVID.", 3600.0)
    force: bool = key("Start although this is no demo.", False)


@dataclass(frozen=True, slots=True)
class Spire:
    server_path: str | None = key("The spire-server binary; looked for on PATH and in /opt/spire/bin if unset.", None)
    agent_path: str | None = key("The spire-agent binary; looked for in the same way.", None)
    server_user: str = key("System user (name or number) of the server, of nothing else.", "meshexp-spire-server")
    agent_user: str = key("System user (name or number) of the agent, of nothing else.", "meshexp-spire-agent")


@dataclass(frozen=True, slots=True)
class Local:
    ca_cert: str = key(
        "Certificate that the server signs under, then its chain; `meshexp ca issue` makes it.", "/etc/meshexp/spire/ca.crt"
    )
    ca_key: str = key("Key of that certificate.", "/etc/meshexp/spire/ca.key")
    allow_root_key: bool = key("Take a root's own key. An attacker on this machine can then be anybody in the mesh.", False)
    port: Port = key("Where the server listens for the agent, on loopback.", 8081)
    svid_ttl: Duration = key("Lifetime of an SVID, at most 7d; a seventh of what is left of the CA's if that is less.", 86400.0)

    def __post_init__(self) -> None:
        if not 5.0 <= self.svid_ttl <= 7 * 86400.0:
            raise ValueError(
                "svid_ttl must be between 5s (SPIRE looks that often what to renew) and 7d (it can keep no longer one)"
            )


@dataclass(frozen=True, slots=True)
class Agent:
    server_address: Endpoint | None = key("The SPIRE server, host:port. Required in mode agent.", None)
    join_token_file: str | None = key("File with a join token, as the way to be attested.", None)
    certificate_file: str | None = key("Certificate (then its chain) for x509pop, as the other way.", None)
    key_file: str | None = key("Key of that certificate.", None)

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        if self.key_file is not None and self.join_token_file is not None:
            raise ValueError("either join_token_file, or certificate_file and key_file")


@dataclass(frozen=True, slots=True)
class Identity:
    mode: IdentityMode = key("Where the SVID comes from.", IdentityMode.EXTERNAL)
    spiffe_id: Spiffe | None = key("This machine's SPIFFE ID; spiffe://root.linkerd.cluster.local/<group> if unset.", None)
    socket: str = key("Workload API socket of mode external.", "/run/spire/agent/public/api.sock")
    spire: Spire = section(Spire, "The SPIRE programs of modes local and agent.")
    local: Local = section(Local, "Mode local.")
    agent: Agent = section(Agent, "Mode agent.")
    embedded: Embedded = section(Embedded, "Mode embedded: the signing CA is on this machine. Not for production.")

    def __post_init__(self) -> None:
        agent = self.agent
        if self.mode is IdentityMode.AGENT and (agent.server_address is None or not (agent.join_token_file or agent.key_file)):
            raise ValueError("mode agent needs agent.server_address, and join_token_file, or certificate_file and key_file")


@dataclass(frozen=True, slots=True)
class Network_:
    node: Address | None = key(
        "Address of the node that pod and service networks are reached through; those that the controller tells if unset.", None
    )
    spare_nodes: tuple[Address, ...] = key(
        "Nodes that service networks are reached through when `node` does not answer, before those that the controller tells.", ()
    )
    pod_cidrs: tuple[Network, ...] = key("Pod networks, besides those that the controller tells.", ())
    service_cidrs: tuple[Network, ...] = key("Service networks, besides those that the controller tells.", ())
    mesh_cidrs: tuple[Network, ...] = key("Networks of other mesh machines, to be reached through the proxy too.", ())
    allow: tuple[Network, ...] = key(
        "What the controller may tell: only networks within these, also large ones. If empty: none larger than /8 (IPv4) or /32"
        " (IPv6), and none with this machine's gateway or DNS server.",
        (),
    )
    source_address: Address | None = key(
        "Source address of this machine's own packets to these networks, if not the kernel's choice.", None
    )
    route_metric: int = key("Metric of the routes; 0: the kernel's own.", 0)
    route_table: int = key("Routing table of the routes; one that is not main (254) must be free, and is asked before main.", 254)

    def __post_init__(self) -> None:
        if not 0 <= self.route_metric < 2**32:
            raise ValueError("route_metric must be 0 to 4294967295")
        if not 1 <= self.route_table < 2**32 or self.route_table in (253, 255):
            raise ValueError("route_table must be 1 to 4294967295, and neither default (253) nor local (255)")


class DnsMode(enum.Enum):
    AUTO = "auto"
    RESOLVED = "resolved"
    RESOLV_CONF = "resolv.conf"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Dns:
    mode: DnsMode = key(
        "Who asks our dnsmasq for the cluster's names; auto: systemd-resolved where names go through it; else nobody where the"
        " servers in resolv.conf know the cluster's names already; else resolv.conf.",
        DnsMode.AUTO,
    )
    servers: tuple[Endpoint, ...] = key("Addresses of the cluster's DNS servers, if not what the controller tells.", ())
    domain: Domain | None = key("The domain that is asked of them; the cluster's own if unset.", None)
    allowed_domains: tuple[Domain, ...] = key(
        "The controller may tell one of these as the cluster's domain, or one below; cluster.local if empty.", ()
    )
    search: tuple[str, ...] = key("Search domains, besides those of the machine.", ())
    ndots: int | None = key("Option ndots of resolv.conf; systemd-resolved has none.", None)
    user: str = key("System user (name or number) of dnsmasq.", "meshexp-dns")

    def __post_init__(self) -> None:
        for server in self.servers:
            if server.ip is None:
                raise ValueError(f"servers: {server} has a name; a DNS server is given by its address")
        if self.ndots is not None and not 0 <= self.ndots <= 15:
            raise ValueError("ndots must be 0 to 15")


@dataclass(frozen=True, slots=True)
class Config:
    workload: Workload = field(metadata={"doc": "What this machine is."})
    controller: Controller = section(Controller, "The autoregistration controller.")
    identity: Identity = section(Identity, "Who this machine is: its SPIFFE identity.")
    network: Network_ = section(Network_, "Routes to the cluster.")
    dns: Dns = section(Dns, "The cluster's names. All others are asked as before, whatever becomes of the cluster's servers.")
    proxy: Proxy = section(Proxy, "The Linkerd proxy.")
    redirect: Redirect = section(Redirect, "Which traffic goes through the proxy.")
    probes: Probes = section(Probes, "The group's probes, as far as this machine has a say in them.")
    drain: Drain = section(Drain, "Leaving in good order.")
    metrics: Metrics = section(Metrics, "Metrics for Prometheus.")
    log: Log = section(Log, "Logging.")
