"""Whether what listens on a port can be reached where peers look for it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.values import IPAddress, unmapped


@dataclass(frozen=True, slots=True)
class Listener:
    """`only_ipv6`: of one on `::`, whether it takes no IPv4."""

    address: IPAddress
    port: int
    only_ipv6: bool = False


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A port that has listeners, none of which peers reach: they are at these addresses."""

    port: int
    addresses: tuple[IPAddress, ...]

    def __str__(self) -> str:
        return f"port {self.port} listens on {', '.join(map(str, self.addresses))} only"


def elsewhere(ports: Iterable[int], addresses: tuple[IPAddress, ...], listeners: Iterable[Listener]) -> tuple[Elsewhere, ...]:
    """Of `ports`, those that can be reached at none of `addresses`. One without a listener may be forwarded to a container."""
    there = tuple(listeners)
    found = []
    for port in ports:
        own = [listener for listener in there if listener.port == port]
        if own and not any(_reached(listener, address) for listener in own for address in addresses):
            found.append(Elsewhere(port, tuple(sorted({listener.address for listener in own}, key=str))))
    return tuple(found)


def _reached(listener: Listener, address: IPAddress) -> bool:
    own = unmapped(listener.address)
    if own.is_unspecified:
        return own.version == address.version or (own.version == 6 and not listener.only_ipv6)
    return own == address
