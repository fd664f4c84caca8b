"""Names to addresses, and which of this machine's addresses speaks to one of them."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from harness.values import HostPort, IPAddress


async def resolved(endpoint: HostPort) -> tuple[IPAddress, ...]:
    """Empty when the name leads nowhere."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(_address(str(name)) for *_, (name, *_) in found)


def v6only() -> bool:
    """Whether a socket for `::` takes no IPv4 unless its program asks for that: the sysctl net.ipv6.bindv6only, as it counts."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            return bool(probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    except OSError:
        return False  # there is no IPv6


def source_of(target: IPAddress) -> IPAddress | None:
    """The local address that packets to `target` leave from; None when there is no way there. Nothing is sent."""
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(target), 9))
        except OSError:
            return None
        return _address(str(probe.getsockname()[0]))


def _address(text: str) -> IPAddress:
    return ipaddress.ip_address(text.partition("%")[0])
