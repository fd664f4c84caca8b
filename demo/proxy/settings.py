"""What the development proxy reads of linkerd2-proxy's environment, as strictly as the real one in SPIRE mode."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from harness import values
from harness.errors import ConfigError, Fault
from harness.values import IPAddress

PREFIX = "LINKERD2_PROXY_"
_SOCKET = ("IDENTITY_SPIRE_WORKLOAD_API_ADDRESS", "IDENTITY_SPIRE_SOCKET")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SocketAddress:
    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return str(values.HostPort(str(self.ip), self.port))


@dataclass(frozen=True, slots=True)
class Settings:
    """`destination_name`: of the destination service's certificate; None where it is spoken to without TLS.

    `trust_anchors` is PEM text, `shutdown_grace` is in seconds, `log` a filter such as `warn,linkerd=info`.
    """

    workload_api: str
    server_id: str
    server_name: str
    trust_anchors: str
    destination: values.HostPort
    destination_name: str | None
    outbound: tuple[SocketAddress, ...]
    inbound: SocketAddress
    admin: SocketAddress
    shutdown_grace: float
    log: str


def parse(environment: Mapping[str, str]) -> Settings:
    """ConfigError names every variable that is missing or malformed."""
    faults: list[Fault] = []

    def take(name: str, convert: Callable[[str], _T], default: str | None = None) -> _T:
        text = environment.get(PREFIX + name, default)
        try:
            if text is None:
                raise ValueError("missing")
            return convert(text)
        except ValueError as error:
            faults.append(Fault(PREFIX + name, str(error)))
            # Never used: the faults are raised below.
            return convert(default) if default is not None else None  # type: ignore[return-value]

    socket_variable = _SOCKET[0] if PREFIX + _SOCKET[0] in environment else _SOCKET[1]
    if PREFIX + "IDENTITY_LOCAL_NAME" in environment:
        faults.append(Fault(PREFIX + "IDENTITY_LOCAL_NAME", "Spire support requires a SPIFFE TLS Id; unset it"))
    take("POLICY_WORKLOAD", _text)
    settings = Settings(
        workload_api=take(socket_variable, _socket_path),
        server_id=take("IDENTITY_SERVER_ID", lambda text: str(values.parse_spiffe_id(text))),
        server_name=take("IDENTITY_SERVER_NAME", _dns_name),
        trust_anchors=take("IDENTITY_TRUST_ANCHORS", _text),
        destination=take("DESTINATION_SVC_ADDR", values.parse_host_port),
        destination_name=take("DESTINATION_SVC_NAME", _dns_name) if PREFIX + "DESTINATION_SVC_NAME" in environment else None,
        outbound=take("OUTBOUND_LISTEN_ADDRS", _socket_addresses, "127.0.0.1:4140"),
        inbound=take("INBOUND_LISTEN_ADDR", _socket_address, "0.0.0.0:4143"),
        admin=take("ADMIN_LISTEN_ADDR", _socket_address, "127.0.0.1:4191"),
        shutdown_grace=take("SHUTDOWN_GRACE_PERIOD", _duration, "2m"),
        log=take("LOG", str, "warn,linkerd=info"),
    )
    if faults:
        raise ConfigError(tuple(faults), "Invalid configuration")
    return settings


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("empty")
    return text


def _socket_path(text: str) -> str:
    """`/p`, `unix:/p` and `unix:///p` are the same path."""
    return re.sub(r"/+", "/", _text(text.removeprefix("unix:")), count=1)


def _dns_name(text: str) -> str:
    if len(text) > 253 or not re.fullmatch(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.?)+", text, re.IGNORECASE):
        raise ValueError("not a DNS name")
    return text.rstrip(".").lower()


def _socket_address(text: str) -> SocketAddress:
    found = values.parse_host_port(text)
    return SocketAddress(ipaddress.ip_address(found.host), found.port)


def _socket_addresses(text: str) -> tuple[SocketAddress, ...]:
    found = tuple(_socket_address(part) for part in text.split(","))
    if len(found) > 2:
        raise ValueError("more than two addresses")
    return found


def _duration(text: str) -> float:
    """Unlike our own durations: no decimals, no bare number but 0, no space before the unit."""
    match = re.fullmatch(r"\s*(?:(\d+)(ms|s|m|h|d)|0)\s*", text)
    if match is None:
        raise ValueError("not a duration such as 500ms, 10s or 2m")
    return int(match[1]) * _UNITS[match[2]] if match[1] else 0.0
