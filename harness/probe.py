"""A readiness probe, as a group names it: Kubernetes' field names, numbers and defaults. Part of the wire (messages.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from harness.texts import HeaderName, HeaderValue, Host, UrlPath, matching, visible, whole
from harness.values import HostPort, IPAddress, Label, Most, Port

_MOST_NUMBER = 2**31 - 1  # of Kubernetes' own numbers
_Count = Annotated[int, whole(1, _MOST_NUMBER)]


def _place(host: str | None, port: int) -> HostPort:
    """Without a host only in what is said of it: a probe that is run has one (`Probe.at`)."""
    return HostPort(host or "localhost", port)


@dataclass(frozen=True, slots=True)
class HttpGet:
    """Passes on a status from 200 to 399. `host`: without one it is the machine's own address, as for the kubelet the pod's."""

    port: Port
    host: Host | None = None
    path: UrlPath = "/"
    scheme: Annotated[str, matching("HTTPS?", "HTTP or HTTPS")] = "HTTP"
    http_headers: Annotated[tuple[Header, ...], Most(100)] = ()

    @property
    def place(self) -> HostPort:
        return _place(self.host, self.port)

    @property
    def url(self) -> str:
        return f"{self.scheme.lower()}://{self.place}/{self.path.lstrip('/')}"


@dataclass(frozen=True, slots=True)
class Header:
    name: HeaderName
    value: HeaderValue


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """Passes when a connection is accepted."""

    port: Port
    host: Host | None = None

    @property
    def place(self) -> HostPort:
        return _place(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Grpc:
    """grpc.health.v1 Check; passes on SERVING."""

    port: Port
    host: Host | None = None
    service: Annotated[str, visible(253)] = ""

    @property
    def place(self) -> HostPort:
        return _place(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Exec:
    """A command that the VM's own configuration allows under this name; passes on exit code 0."""

    name: Label


@dataclass(frozen=True, slots=True)
class Probe:
    """One readiness probe: Kubernetes' field names, numbers and defaults, in seconds; exactly one kind is set."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    grpc: Grpc | None = None
    exec_: Exec | None = None
    initial_delay_seconds: float = 0.0
    period_seconds: float = 10.0
    timeout_seconds: float = 1.0
    failure_threshold: _Count = 3
    success_threshold: _Count = 1

    def __post_init__(self) -> None:
        kinds = [k for k in (self.http_get, self.tcp_socket, self.grpc, self.exec_) if k is not None]
        if len(kinds) != 1:
            raise ValueError("a probe needs exactly one of httpGet, tcpSocket, grpc, exec")
        if not (self.period_seconds >= 0.1 and self.timeout_seconds > 0 and self.initial_delay_seconds >= 0):
            raise ValueError("periodSeconds must be at least 0.1, timeoutSeconds above 0, initialDelaySeconds not negative")
        if max(self.period_seconds, self.timeout_seconds, self.initial_delay_seconds) > _MOST_NUMBER:
            raise ValueError(f"periodSeconds, timeoutSeconds and initialDelaySeconds must be at most {_MOST_NUMBER}")

    def at(self, address: IPAddress) -> Probe:
        """With the machine's own address where it names no host."""

        own = str(address)
        if self.http_get is not None and not self.http_get.host:
            return replace(self, http_get=replace(self.http_get, host=own))
        if self.tcp_socket is not None and not self.tcp_socket.host:
            return replace(self, tcp_socket=replace(self.tcp_socket, host=own))
        if self.grpc is not None and not self.grpc.host:
            return replace(self, grpc=replace(self.grpc, host=own))
        return self

    @property
    def tried(self) -> str:
        """What is done, in full: `GET http://127.0.0.1:8000/ready`."""
        if self.http_get is not None:
            return f"GET {self.http_get.url}"
        if self.tcp_socket is not None:
            return f"TCP connection to {self.tcp_socket.place}"
        if self.grpc is not None:
            service = f" for {self.grpc.service}" if self.grpc.service else ""
            return f"gRPC health check of {self.grpc.place}{service}"
        return f"the command {self.exec_.name}" if self.exec_ is not None else "no probe"

    @property
    def port(self) -> int | None:
        """That is called; None for a command."""
        target = self.http_get or self.tcp_socket or self.grpc
        return target.port if target is not None else None

    def __str__(self) -> str:
        """Short, for people and as a label: `http :8000/ready`, `exec NAME`."""
        if self.http_get is not None:
            return f"{self.http_get.scheme.lower()} :{self.http_get.port}{self.http_get.path}"
        if self.tcp_socket is not None:
            return f"tcp :{self.tcp_socket.port}"
        if self.grpc is not None:
            return f"grpc :{self.grpc.port}"
        return f"exec {self.exec_.name}" if self.exec_ is not None else "none"
