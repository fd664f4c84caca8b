"""Every key of harness.yaml: its type, its default and one sentence, in one table. No I/O.

The loader, the environment variables, `meshexp config show` and the reference page all read this table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from harness import rules
from harness.values import Address, Domain, Duration, Endpoint, HostPort, Interface, Label, Network, Port, Ports, Spiffe


def key(doc: str, default: Any = ...) -> Any:
    """A configuration key with its sentence; without a default it is required."""
    metadata = {"doc": doc}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


def mapping(doc: str) -> Any:
    return field(default_factory=dict, metadata={"doc": doc})


def section(cls: type, doc: str) -> Any:
    return field(default_factory=cls, metadata={"doc": doc})


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
class Proxy:
    path: str | None = key("The linkerd2-proxy binary; the one that `meshexp proxy use` chose if unset.", None)
    env: dict[str, str] = mapping("Variables given to the proxy as they are, over those that the harness sets. Mind what you do.")
    user: str = key("System user (name or number, not root) of the proxy.", "meshexp-proxy")
    inbound_port: Port = key("Where redirected inbound connections arrive.", 4143)
    outbound_port: Port = key("Where redirected outbound connections arrive.", 4140)
    admin_port: Port = key("The proxy's own admin port, on loopback.", 4191)
    log: str = key("Log filter.", "warn,linkerd=info,hickory=error,[{headers}]=off,[{request}]=off")
    start_timeout: Duration = key("A proxy without a certificate after this time is started again.", 30.0)
    shutdown_grace: Duration = key("How long open connections may go on when the proxy stops.", 30.0)
    destination_address: Endpoint | None = key("Linkerd's destination service, if not what the controller tells.", None)
    policy_address: Endpoint | None = key("Linkerd's policy service, if not what the controller tells.", None)


class Backend(enum.Enum):
    AUTO = "auto"
    NFTABLES = "nftables"
    IPTABLES = "iptables"


class OnProxyLoss(enum.Enum):
    CLOSED = "closed"  # the rules stay: no plaintext
    OPEN = "open"  # after 30 s the rules go: traffic, but outside the mesh


@dataclass(frozen=True, slots=True)
class Redirect:
    backend: Backend = key("Which firewall programs the rules; auto looks at what the machine uses.", Backend.AUTO)
    outbound: rules.Outbound = key("mesh: only the mesh's networks; all: all TCP; off.", rules.Outbound.MESH)
    inbound: rules.Inbound = key("ports: the group's ports; all: all ports but the excluded; off.", rules.Inbound.PORTS)
    ports: tuple[Ports, ...] = key("Inbound ports besides the group's.", ())
    ignore_inbound_ports: tuple[Ports, ...] = key("Inbound ports that never go through the proxy; SSH is always among them.", ())
    ignore_outbound_ports: tuple[Ports, ...] = key("Destination ports that never go through the proxy.", ())
    ignore_subnets: tuple[Network, ...] = key("Networks that never go through the proxy, in either direction.", ())
    ignore_interfaces: tuple[Interface, ...] = key("Network interfaces whose traffic is left alone.", ())
    ipv6: bool = key("Redirect IPv6 too.", True)
    on_proxy_loss: OnProxyLoss = key(
        "closed: the rules stay while the proxy is gone; open: they go after 30 s.", OnProxyLoss.CLOSED
    )


@dataclass(frozen=True, slots=True)
class Drain:
    deadline: Duration = key("A stop gives up waiting after this time, whatever is still open.", 60.0)


@dataclass(frozen=True, slots=True)
class Probes:
    commands: dict[str, tuple[str, ...]] = mapping(
        "What probes of kind exec may run on this machine: a list by name, the program's full path first."
    )
    user: str = key("System user (name or number; neither root nor the proxy's) that runs them.", "nobody")

    def __post_init__(self) -> None:
        for name, argv in self.commands.items():
            if not argv or not argv[0].startswith("/"):
                raise ValueError(f"commands.{name}: the first word is the program's full path")


class LogFormat(enum.Enum):
    AUTO = "auto"  # journal fields under systemd, colour on a terminal, else json
    JSON = "json"
    CONSOLE = "console"


class LogLevel(enum.Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Log:
    level: LogLevel = key("The least level that is logged.", LogLevel.INFO)
    format: LogFormat = key("How.", LogFormat.AUTO)


@dataclass(frozen=True, slots=True)
class Metrics:
    listen: Endpoint | None = key(
        "Where Prometheus finds them, host:port; nowhere if null. Every user of the machine may read what is on loopback.",
        HostPort("127.0.0.1", 4192),
    )
    textfile: str | None = key("File for node_exporter's textfile collector, *.prom, written again at each change.", None)

    def __post_init__(self) -> None:
        if self.textfile is not None and not (self.textfile.startswith("/") and self.textfile.endswith(".prom")):
            raise ValueError("textfile must be a full path that ends in .prom: node_exporter reads no other")


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
