"""The way to the cluster: routes to its networks, the node that they go through, the size of packets that pass."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness import check_problems as problems
from harness import route_clashes as clashes
from harness import route_ways
from harness.check.context import Context, needs_root
from harness.check.report import NOT_LOOKED, Judge, Result, Untried
from harness.desired import routes
from harness.errors import HarnessError
from harness.problems import ROUTE_CONFLICT, ROUTE_ELSEWHERE, ROUTE_GATEWAY_UNREACHABLE, ROUTE_REFUSED
from harness.reconcilers.routes import NODES_ASKED, Observed, elsewhere
from harness.route_ways import Way
from harness.specs import MAIN_TABLE, Route
from harness.system import path_mtu
from harness.system.netlink import Netlink
from harness.values import IPAddress

NAME = "meshexp-network"
ECHO_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Facts:
    """`wanted`: the routes to those networks of the cluster that are known."""

    wanted: tuple[Route, ...] = ()
    there: tuple[Route, ...] | Untried = NOT_LOOKED
    paths: tuple[path_mtu.Path_, ...] = ()
    ways: Mapping[IPAddress, Way] | Untried = field(default_factory=dict)


async def gather(context: Context) -> Facts:
    wanted = routes(context.config, context.registration)
    peers: set[IPAddress] = {
        node for route in wanted for node in (route.via, *route.spares[: NODES_ASKED - 1]) if node is not None
    }
    controller = context.config.controller.address.ip
    peers |= {controller} if controller is not None else set()
    paths = await asyncio.gather(*(path_mtu.look(peer, ECHO_SECONDS) for peer in sorted(peers, key=str)))
    try:
        there = await Netlink().routes()
    except HarnessError as error:
        return Facts(wanted, Untried(f"the routes cannot be listed: {error.message}"), tuple(paths))
    ways: Mapping[IPAddress, Way] | Untried
    try:
        ways = await Netlink().ways(route_ways.samples(there))
    except HarnessError as error:
        ways = Untried(f"the kernel does not say which way it takes: {error.message}")
    return Facts(wanted, there, tuple(paths), ways)


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to = Judge(NAME)
    yield from _judge_routes(to, context, facts)
    if not facts.paths:
        yield to.skipped("packets of full size reach the nodes", "no address of a node or of the controller is known")
    for path in facts.paths:
        narrow = [f"of {path.mtu} bytes, none reaches {path.peer} (smaller ones do)"] if path.narrow else []
        text = f"packets of full size reach {path.peer}"
        why = needs_root("an ICMP echo is sent").why if path.denied and not context.root else path.unknown
        yield to.found(text, problems.PATH_MTU, narrow, tried=path.small, why=why)


def _judge_routes(to: Judge, context: Context, facts: Facts) -> Iterator[Result]:
    why = facts.there.why if isinstance(facts.there, Untried) else ""
    if not facts.wanted:
        why = why or "no network of the cluster is known that is reached through a node"
    there = () if isinstance(facts.there, Untried) else facts.there
    gateways = [str(gateway) for gateway in Observed(there).unreachable(facts.wanted)] if not why else []
    reasons = [f"{', '.join(gateways)} is on no link of this machine"] if gateways else []
    no_link = ROUTE_GATEWAY_UNREACHABLE.narrowed(host=gateways[0] if gateways else "")
    yield to.found("the nodes are on links of this machine", no_link, reasons, tried=not why, why=why)
    others = conflicts(facts.wanted, there)
    yield to.found("no route of others leads to the cluster's networks", ROUTE_CONFLICT, others, tried=not why, why=why)
    refused = [f"{route.network} would hide {what}" for route, what in clashes.hidden(facts.wanted, there).items()]
    yield to.found("no route to the cluster hides what this machine needs", ROUTE_REFUSED, refused, tried=not why, why=why)
    ways = {} if isinstance(facts.ways, Untried) else facts.ways
    found = elsewhere(there, ways)
    problem = ROUTE_ELSEWHERE.advised(found.hint()) if found else ROUTE_ELSEWHERE
    unasked = facts.ways.why if isinstance(facts.ways, Untried) else "no route of ours is set"
    none = "" if ways else why or unasked
    text = "the kernel takes the routes to the cluster"
    yield to.found(text, problem, [found.came] if found else [], tried=not none, why=none)
    for kind, networks in _kinds(context) if context.running else ():
        wanted = [route for route in facts.wanted if route.network in networks]
        missing = [str(route) for route in wanted if not _served(route, there)] if not why else []
        none = why or f"no {kind} network is known that is reached through a node"
        text = f"routes to the {kind} network are in place"
        yield to.found(text, problems.ROUTE_MISSING, missing, tried=bool(wanted) and not why, why=none)


def _kinds(context: Context) -> Iterator[tuple[str, frozenset[object]]]:
    network, facts = context.config.network, context.facts
    yield "pod", frozenset((*network.pod_cidrs, *(route.pod_cidr for route in facts.pod_routes)))
    yield "service", frozenset((*network.service_cidrs, *facts.service_cidrs))


def _served(wanted: Route, there: tuple[Route, ...]) -> bool:
    """By our route, or by another's to the same network, which is a conflict and said as such."""
    return any(route.network == wanted.network and route.table in (MAIN_TABLE, wanted.table) for route in there)


def conflicts(wanted: tuple[Route, ...], there: tuple[Route, ...]) -> Iterator[str]:
    """Others' routes to the same network through the same node do no harm."""
    for other, text in clashes.conflicts(wanted, there):
        if not any(other.network == route.network and other.via in (route.via, *route.spares) for route in wanted):
            yield text
