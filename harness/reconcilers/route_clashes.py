"""What stands in the way of a route: others' routes that it would hide, or that take its traffic. Pure."""

from __future__ import annotations

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


def hidden(route: Route, wanted: Iterable[Route], there: Iterable[Route]) -> str | None:
    """What this machine could no longer reach as before if `route` were set; None when nothing."""
    others = [o for o in there if o.protocol != ROUTE_PROTOCOL and o.table == MAIN_TABLE]
    for other in others:
        if (
            other.via is None
            and other.network.prefixlen
            and other.protocol in (KERNEL, ROUTER_ADVERTISEMENT)
            and within(route, other)
        ):
            return f"{other.network}, a subnet of this machine"
    gateways = {
        other.via: "a gateway of this machine" for other in others if other.via is not None and not other.network.prefixlen
    }
    nodes = {node: "a node that routes go through" for one in wanted for node in (one.via, *one.spares) if node is not None}
    for address, what in {**nodes, **gateways, **dict.fromkeys(route.keep, "the controller")}.items():
        if address in route.network and _nearest(address, others) in range(route.network.prefixlen + 1):
            return f"{address}, {what}"
    return None


def within(inner: Route, outer: Route) -> bool:
    return inner.network.version == outer.network.version and inner.network.subnet_of(outer.network)  # type: ignore[arg-type]


def _nearest(address: IPAddress, routes: Iterable[Route]) -> int:
    """Length of the longest prefix that leads to `address`; -1 when none does."""
    return max((route.network.prefixlen for route in routes if address in route.network), default=-1)
