"""Which way the kernel takes to the cluster's networks, next to the way that our routes say. Pure.

A route in the table is no answer: rules of other programs (a VPN's, several uplinks) have other tables asked before it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.specs import MAIN_TABLE, ROUTE_PROTOCOL, Route
from harness.values import IPAddress, IPNetwork

NETWORKS_ASKED = 16  # of a cluster's many: rules are for whole tables, and each question costs the tenth of a millisecond


@dataclass(frozen=True, slots=True)
class Way:
    """`text`: as `ip route get` says it, or why there is none. `link`: empty where there is none."""

    text: str
    via: IPAddress | None = None
    link: str = ""
    local: bool = False
    source: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Astray:
    """An address of a network that a route of ours leads to, which goes another way than that says."""

    address: IPAddress
    route: Route
    way: Way

    def __str__(self) -> str:
        link = f" dev {self.route.link}" if self.route.link else ""
        return f"{self.address} goes {self.way.text}, and not via {self.route.via}{link}"


def samples(there: Iterable[Route]) -> dict[IPAddress, Route]:
    """Addresses to ask the kernel for, each with the route of ours that leads to it.

    The first and the last of our networks, and one of each network of others that has a part of ours in another table: there the
    ways part. A route of others in the main table is a conflict, which is reported apart. Its addresses are left out here.
    """
    there = tuple(there)
    ours = {route.network: route for route in there if route.protocol == ROUTE_PROTOCOL}
    others = [route for route in there if route.protocol != ROUTE_PROTOCOL and route.network.prefixlen]
    step = -(-len(ours) // NETWORKS_ASKED) or 1
    addresses = [address for network in list(ours)[::step] for address in _ends(network)]
    apart = [other.network for other in others if other.table not in (MAIN_TABLE, *(route.table for route in ours.values()))]
    addresses += [_ends(network)[0] for network in apart][: 4 * NETWORKS_ASKED]
    lengths = sorted({(network.version, network.prefixlen) for network in ours}, reverse=True)
    main = [other.network for other in others if other.table == MAIN_TABLE]
    found: dict[IPAddress, Route] = {}
    for address in addresses:
        route = _most_specific(ours, lengths, address)
        if route is not None and not (route.table == MAIN_TABLE and _taken(address, route.network, main)):
            found[address] = route
    return found


def _ends(network: IPNetwork) -> tuple[IPAddress, IPAddress]:
    """Of a network with room for them, the first and the last address of a host."""
    inner = network.num_addresses > 2
    return (network[1], network[-2]) if inner else (network[0], network[-1])


def _most_specific(ours: Mapping[IPNetwork, Route], lengths: Iterable[tuple[int, int]], address: IPAddress) -> Route | None:
    """By lengths and not one by one: a cluster may have a thousand nodes."""
    around = (ipaddress.ip_network((address.packed, length), strict=False) for v, length in lengths if v == address.version)
    return next((ours[network] for network in around if network in ours), None)


def _taken(address: IPAddress, network: IPNetwork, main: Iterable[IPNetwork]) -> bool:
    return any(address in other and other.prefixlen >= network.prefixlen for other in main)


def astray(asked: Mapping[IPAddress, Route], ways: Mapping[IPAddress, Way]) -> tuple[Astray, ...]:
    """One for each network: its other addresses go the same way, or are named when this one is right."""
    found: dict[Route, Astray] = {}
    for address, route in asked.items():
        way = ways.get(address)
        if way is None or way.local or (way.via == route.via and route.link in ("", way.link)):
            continue
        found.setdefault(route, Astray(address, route, way))
    return tuple(found.values())
