"""The way to the cluster: routes to its networks, the node that they go through, the size of packets that pass."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from harness import check_problems as problems
from harness.check.context import Context
from harness.check.report import Judge, Result
from harness.desired import routes
from harness.problems import ROUTE_CONFLICT, ROUTE_GATEWAY_UNREACHABLE, ROUTE_REFUSED
from harness.reconcilers import route_clashes as clashes
from harness.reconcilers.routes import NODES_ASKED, Observed
from harness.specs import MAIN_TABLE, Route
from harness.system import path_mtu
from harness.system.netlink import Netlink
from harness.values import IPAddress

ECHO_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Facts:
    wanted: tuple[Route, ...]
    there: tuple[Route, ...]
    paths: tuple[path_mtu.Path_, ...]


async def gather(context: Context) -> Facts:
    wanted = routes(context.config, context.registration)
    peers: set[IPAddress] = {
        node for route in wanted for node in (route.via, *route.spares[: NODES_ASKED - 1]) if node is not None
    }
    controller = context.config.controller.address.ip
    peers |= {controller} if controller is not None else set()
    paths = await asyncio.gather(*(path_mtu.look(peer, ECHO_SECONDS) for peer in sorted(peers, key=str)))
    return Facts(wanted, await Netlink().routes(), tuple(paths))


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to, seen = Judge("meshexp-network"), Observed(facts.there)
    gateways = [str(gateway) for gateway in seen.unreachable(facts.wanted)]
    reasons = [f"{', '.join(gateways)} is on no link of this machine"] if gateways else []
    yield to.found("the nodes are on links of this machine", ROUTE_GATEWAY_UNREACHABLE, reasons)
    yield to.found("no route of others leads to the cluster's networks", ROUTE_CONFLICT, conflicts(facts))
    refused = [f"{route.network} would hide {what}" for route, what in clashes.hidden(facts.wanted, facts.there).items()]
    yield to.found("no route to the cluster hides what this machine needs", ROUTE_REFUSED, refused)
    for kind, networks in _kinds(context):
        missing = [str(r) for r in facts.wanted if r.network in networks and not _served(r, facts.there)]
        if context.running:
            yield to.found(f"routes to the {kind} network are in place", problems.ROUTE_MISSING, missing)
    narrow = [f"of {path.mtu} bytes, none reaches {path.peer} (smaller ones do)" for path in facts.paths if path.narrow]
    yield to.found("packets of full size reach the nodes", problems.PATH_MTU, narrow)


def _kinds(context: Context) -> Iterator[tuple[str, frozenset[object]]]:
    network, facts = context.config.network, context.facts
    yield "pod", frozenset((*network.pod_cidrs, *(route.pod_cidr for route in facts.pod_routes)))
    yield "service", frozenset((*network.service_cidrs, *facts.service_cidrs))


def _served(wanted: Route, there: tuple[Route, ...]) -> bool:
    """By our route, or by another's to the same network, which is a conflict and said as such."""
    return any(route.network == wanted.network and route.table in (MAIN_TABLE, wanted.table) for route in there)


def conflicts(facts: Facts) -> Iterator[str]:
    """Others' routes to the same network through the same node do no harm."""
    for other, text in clashes.conflicts(facts.wanted, facts.there):
        if not any(other.network == route.network and other.via in (route.via, *route.spares) for route in facts.wanted):
            yield text
