"""What stands in the way of a route: others' routes that it would hide, or that take its traffic. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any

from harness.specs import MAIN_TABLE, ROUTE_PROTOCOL, Route
from harness.values import IPAddress, IPNetwork, is_interface

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


def own_subnets(there: Iterable[Route]) -> tuple[Route, ...]:
    """The subnets of this machine's own links, Docker's bridges among them: the routes that come with an address."""
    return tuple(
        other
        for other in there
        if other.via is None
        and other.network.prefixlen
        and other.table == MAIN_TABLE
        and other.protocol in (KERNEL, ROUTER_ADVERTISEMENT)
    )


def on_own_links(
    wanted: Iterable[Route], subnets: Iterable[Route], mesh: Iterable[IPNetwork] = ()
) -> tuple[tuple[str, IPNetwork], ...]:
    """Links of this machine, each with what it has of the wanted networks: of `subnets`, those where no node is.

    It is what `hidden` refuses a route for, and the part that a subnet takes from a route that is set. A packet to it, out by
    that link, reaches no pod: pods are behind the nodes, and these are on other links. On the nodes' own link nothing counts:
    where the nodes' network has pods in it, a neighbour there may be one. Nor does what other mesh machines have (`mesh`).
    """
    wanted, subnets, mesh = tuple(wanted), tuple(subnets), tuple(mesh)
    nodes = {node for route in wanted for node in (route.via, *route.spares) if node is not None}
    to_nodes = {subnet.link for subnet in subnets if any(node in subnet.network for node in nodes)}
    found: set[tuple[str, IPNetwork]] = set()
    for subnet in subnets:
        if subnet.link in to_nodes or not is_interface(subnet.link):
            continue
        parts = {r.network if within(r, subnet) else subnet.network for r in wanted if within(r, subnet) or within(subnet, r)}
        found |= {(subnet.link, rest) for part in parts for rest in _without(part, mesh)}
    return tuple(sorted(found, key=str))


def _without(network: IPNetwork, taken: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    """What of it is in none of `taken`."""
    rest: tuple[IPNetwork, ...] = (network,)
    for one in taken:
        rest = tuple(part for whole in rest for part in _less(whole, one))
    return rest


def _less(whole: Any, part: Any) -> Iterable[IPNetwork]:
    if whole.version != part.version or not whole.overlaps(part):
        return (whole,)
    return () if whole.subnet_of(part) else tuple(whole.address_exclude(part))


def hidden(wanted: Iterable[Route], there: Iterable[Route]) -> dict[Route, str]:
    """The routes that would keep this machine from reaching something as before, and what."""
    others, wanted = [o for o in there if o.protocol != ROUTE_PROTOCOL and o.table == MAIN_TABLE], tuple(wanted)
    found: dict[Route, str] = {}
    for other in own_subnets(others):
        found |= {r: f"{other.network}, a subnet of this machine" for r in wanted if _hides_subnet(r, other)}
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


def _hides_subnet(route: Route, subnet: Route) -> bool:
    """A table of ours is asked before the main one, so that there the more specific route does not win."""
    return within(route, subnet) or (route.table != MAIN_TABLE and within(subnet, route))


def _hides(route: Route, address: IPAddress, others: Iterable[Route]) -> bool:
    """Whether others' best way to `address`, which lies in `route`, is less specific; no way at all cannot be hidden."""
    lengths = [other.network.prefixlen for other in others if address in other.network]
    return bool(lengths) and max(lengths) <= route.network.prefixlen


def within(inner: Route, outer: Route) -> bool:
    return is_within(inner.network, outer.network)


def is_within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and bool(inner.subnet_of(outer))  # type: ignore[arg-type]
