"""The keys of harness.yaml for what runs on the machine: proxy, redirect, probes, leaving, metrics, log. No I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harness import rules
from harness.config.keys import key, mapping
from harness.values import Duration, Endpoint, HostPort, Interface, Network, Port, Ports


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
