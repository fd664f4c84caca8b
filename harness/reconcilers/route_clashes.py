"""What stands in the way of a route: others' routes that it would hide, or that take its traffic. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from harness.specs import MAIN_TABLE, ROUTE_PROTOCOL, Route
from harness.values import IPAddress

KERNEL, ROUTER_ADVERTISEMENT = 2, 9  # protocols of the routes that come with an address: a subnet of the machine's own


def conflicts(wanted: Iterable[Route], there: Iterable[Route]) -> Iterator[tuple[Route, str]]:
    """Others' routes to a wanted network, or to a part of one, or in a table that is to be ours alone."""
    others, wanted = [route for route in there if route.protocol != ROUTE_PROTOCOL], tuple(wanted)
    tables = {route.table for route in wanted} - {MAIN_TABLE}
    for other in others:
        if other.table in tables:
            yield other, f"{other} (proto {other.protocol}) is in the routing table that is to be ours"
        for route in wanted if other.table == MAIN_TABLE else ():
            if other.network == route.network:
                yield other, f"{other} (proto {other.protocol}) is there already"
            elif within(other, route) and other.via not in (route.via, *route.spares):
                yield other, f"{other} (proto {other.protocol}) takes traffic for {route.network}"


def blocked(wanted: Iterable[Route], there: Iterable[Route]) -> frozenset[Route]:
    """What is not set because others have that network, or the table."""
    others, wanted = [route for route in there if route.protocol != ROUTE_PROTOCOL], tuple(wanted)
    networks, tables = {o.network for o in others if o.table == MAIN_TABLE}, {o.table for o in others} - {MAIN_TABLE}
    return frozenset(route for route in wanted if route.network in networks or route.table in tables)


def hidden(wanted: Iterable[Route], there: Iterable[Route]) -> dict[Route, str]:
    """The routes that would keep this machine from reaching something as before, and what."""
    others, wanted = [o for o in there if o.protocol != ROUTE_PROTOCOL and o.table == MAIN_TABLE], tuple(wanted)
    found: dict[Route, str] = {}
    for other in others:
        if other.via is None and other.network.prefixlen and other.protocol in (KERNEL, ROUTER_ADVERTISEMENT):
            found |= {r: f"{other.network}, a subnet of this machine" for r in wanted if within(r, other)}
    kept = {node: "a node that routes go through" for route in wanted for node in (route.via, *route.spares) if node is not None}
    kept |= {o.via: "a gateway of this machine" for o in others if o.via is not None and not o.network.prefixlen}
    # By network and not each with each: a cluster may have a thousand nodes.
    networks = {route.network: route for route in wanted}
    lengths = {(network.version, network.prefixlen) for network in networks}
    for address, what in kept.items():
        around = (
            ipaddress.ip_network((address.packed, length), strict=False)
            for version, length in lengths
            if version == address.version
        )
        for route in (networks[network] for network in around if network in networks):
            if _hides(route, address, others):
                found.setdefault(route, f"{address}, {what}")
    for route in wanted:
        for address in route.keep:
            if address in route.network and _hides(route, address, others):
                found.setdefault(route, f"{address}, the controller")
    return found


def _hides(route: Route, address: IPAddress, others: Iterable[Route]) -> bool:
    """Whether others' best way to `address`, which lies in `route`, is less specific; no way at all cannot be hidden."""
    lengths = [other.network.prefixlen for other in others if address in other.network]
    return bool(lengths) and max(lengths) <= route.network.prefixlen


def within(inner: Route, outer: Route) -> bool:
    return inner.network.version == outer.network.version and inner.network.subnet_of(outer.network)  # type: ignore[arg-type]
