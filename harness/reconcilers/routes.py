"""Routes to the cluster's networks. Ours carry our own protocol number; others' are never touched.

A network that several nodes lead to goes through the first that answers: the kernel is asked every second to look for them on
their links (ARP, neighbour discovery). A node that was silent is gone back to when it has answered for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from harness import phrases, problems, route_ways, tasks
from harness import route_clashes as clashes
from harness.clock import Clock
from harness.errors import HarnessError
from harness.route_ways import Way
from harness.specs import MAIN_TABLE, ROUTE_PROTOCOL, Route, Rule, Silent
from harness.status import Condition, Truth, wrong
from harness.values import IPAddress, IPNetwork

ASK_SECONDS = 1.0
STEADY_SECONDS = 10.0
SETTING = "setting the routes"
ASKING = "asking the nodes on their link"
ASKING_KERNEL = "asking the kernel for the way to addresses of the cluster"
MOST_NAMED = 4
NODES_ASKED = 4  # of a cluster's many: more would be asked by every machine every second, for nothing


class Verb(enum.Enum):
    ADD = "add"
    REPLACE = "replace"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    verb: Verb
    what: Route | Rule

    @property
    def removes(self) -> bool:
        return self.verb is Verb.DELETE

    def __str__(self) -> str:
        return f"{self.verb.value} {self.what}"


@dataclass(frozen=True, slots=True)
class Observed:
    """All routes, ours and others', and our rules.

    `silent`: addresses that do not answer on their link. `unsteady`: those that did not until a moment ago. `sought`: those that
    the kernel has just begun to look for, which says nothing yet.
    """

    routes: tuple[Route, ...]
    rules: frozenset[Rule] = frozenset()
    silent: frozenset[IPAddress] = frozenset()
    unsteady: frozenset[IPAddress] = frozenset()
    sought: frozenset[IPAddress] = frozenset()
    deaf: str = ""
    """Why nodes cannot be asked."""

    ways: Mapping[IPAddress, Way] = field(default_factory=dict)
    """Where the kernel sends packets to some addresses of our networks."""

    ours: frozenset[Route] = field(init=False, repr=False)
    on_link: tuple[IPNetwork, ...] = field(init=False, repr=False)
    present: frozenset[tuple[IPNetwork, IPAddress | None]] = field(init=False, repr=False)
    """Which way our networks go now."""

    def __post_init__(self) -> None:
        ours = frozenset(r for r in self.routes if r.protocol == ROUTE_PROTOCOL)
        object.__setattr__(self, "ours", ours)
        object.__setattr__(self, "on_link", tuple(r.network for r in self.routes if r.via is None and r.table == MAIN_TABLE))
        object.__setattr__(self, "present", frozenset((r.network, r.via) for r in ours))

    def candidates(self, route: Route) -> tuple[IPAddress, ...]:
        """Its nodes that are on a link of this machine."""
        nodes = (node for node in (route.via, *route.spares) if node is not None)
        return tuple(itertools.islice((node for node in nodes if any(node in network for network in self.on_link)), NODES_ASKED))

    def through(self, route: Route) -> Route:
        """`route` through the node that is to be used now."""
        candidates = self.candidates(route)
        going = {node for node in candidates if (route.network, node) in self.present}

        def rank(node: IPAddress) -> tuple[int, bool]:
            silent = node in self.silent or (node in self.sought and bool(going) and node not in going)
            standing = 2 if silent else 1 if node in self.unsteady else 0
            return standing, bool(standing) and node not in going

        return replace(route, via=min(candidates, key=rank, default=route.via))

    def wanted(self, desired: tuple[Route, ...]) -> frozenset[Route]:
        """What can be set: neither refused, nor others', nor without a node on a link."""
        not_able = clashes.blocked(desired, self.routes) | clashes.hidden(desired, self.routes).keys()
        return frozenset(self.through(route) for route in desired if route not in not_able and self.candidates(route))

    def unreachable(self, desired: tuple[Route, ...]) -> tuple[IPAddress, ...]:
        """Gateways that are wanted and lie on no directly connected network."""
        return tuple(sorted({r.via for r in desired if r.via is not None and not self.candidates(r)}, key=str))


def objections(desired: tuple[Route, ...], observed: Observed) -> tuple[Condition, ...]:
    """What is to be said before anything is set, the worst first."""
    said = []
    hidden = clashes.hidden(desired, observed.routes)
    if refused := [f"{route.network} would hide {what}" for route, what in hidden.items()]:
        said.append(wrong("Routes", Truth.FALSE, problems.ROUTE_REFUSED.found(SETTING, "; ".join(refused))))
    if unreachable := observed.unreachable(desired):
        text = f"{', '.join(map(str, unreachable))} is on no link of this machine"
        found = problems.ROUTE_GATEWAY_UNREACHABLE.found(SETTING, text, host=unreachable[0])
        said.append(wrong("Routes", Truth.FALSE, found))
    if conflicts := dict.fromkeys(text for _, text in clashes.conflicts(desired, observed.routes)):
        found = problems.ROUTE_CONFLICT.found(SETTING, f"left alone, not ours: {'; '.join(conflicts)}")
        said.append(wrong("Routes", Truth.TRUE, found))
    return tuple(said)


def elsewhere(there: tuple[Route, ...], ways: Mapping[IPAddress, Way]) -> problems.Found | None:
    """What goes another way than our routes say, as far as the kernel was asked."""
    astray = route_ways.astray(route_ways.samples(there), ways)
    if not astray:
        return None
    first, more = astray[0], len(astray) - MOST_NAMED
    text = "; ".join(map(str, astray[:MOST_NAMED])) + (f"; and {more} more" if more > 0 else "")
    table = "main" if first.route.table == MAIN_TABLE else first.route.table
    return problems.ROUTE_ELSEWHERE.found(ASKING_KERNEL, text, host=first.address, network=first.route.network, name=table)


class RouteTable(Protocol):
    async def look(self) -> tuple[tuple[Route, ...], frozenset[Rule], Silent]: ...
    async def ways(self, addresses: Iterable[IPAddress]) -> dict[IPAddress, Way]: ...
    async def change(self, verb: str, what: Route | Rule) -> None: ...
    async def silent(self) -> Silent:
        """Addresses that the kernel looked for on their link and found nobody at; those that it is looking for."""

    async def ask(self, nodes: tuple[IPAddress, ...]) -> None:
        """Has the kernel look for them again."""


class Routes:
    name = "routes"

    def __init__(self, table: RouteTable, clock: Clock, wake: Callable[[str], None]) -> None:
        self._table, self._clock, self._wake = table, clock, wake
        self._heard_not: dict[IPAddress, float] = {}
        self._nodes: tuple[IPAddress, ...] = ()
        self._deaf = ""
        self._watch: asyncio.Task[None] | None = None

    async def observe(self) -> Observed:
        routes, rules, heard = await self._table.look()
        return Observed(routes, rules, *self._listen(heard), self._deaf, await self._table.ways(route_ways.samples(routes)))

    def _listen(
        self, heard: Silent, waited: bool = False
    ) -> tuple[frozenset[IPAddress], frozenset[IPAddress], frozenset[IPAddress]]:
        """Who is silent now, who was until a moment ago, and who is sought. `waited`: there was time to answer."""
        (failed, sought), now = heard, self._clock.now()
        silent = failed | (sought if waited else sought & self._heard_not.keys())
        self._heard_not |= dict.fromkeys(silent, now)
        self._heard_not = {node: when for node, when in self._heard_not.items() if now - when < STEADY_SECONDS}
        return silent, frozenset(self._heard_not) - silent, sought - silent

    def diff(self, desired: tuple[Route, ...] | None, observed: Observed) -> tuple[Change, ...]:
        wanted = observed.wanted(desired or ())
        there = {(r.network, r.table, r.metric) for r in observed.ours}
        set_ = {r: Verb.REPLACE if (r.network, r.table, r.metric) in there else Verb.ADD for r in wanted - observed.ours}
        replaced = {(r.network, r.table, r.metric) for r in set_}
        gone = {r for r in observed.ours - wanted if (r.network, r.table, r.metric) not in replaced}
        rules = frozenset(Rule(r.table, r.network.version) for r in wanted if r.table != MAIN_TABLE)
        return (
            *(Change(Verb.DELETE, rule) for rule in sorted(observed.rules - rules)),
            *(Change(Verb.DELETE, r) for r in sorted(gone, key=str)),
            *(Change(set_[r], r) for r in sorted(set_, key=str)),
            *(Change(Verb.ADD, rule) for rule in sorted(rules - observed.rules)),
        )

    async def apply(self, action: Change) -> None:
        await self._table.change(action.verb.value, action.what)

    async def watch(self, desired: tuple[Route, ...] | None) -> None:
        """Looks after the nodes of networks that have several, and wakes when one falls silent or is steady again."""
        spared = [route for route in desired or () if route.spares]
        several: list[tuple[IPAddress, ...]] = []
        if spared:
            observed = await self.observe()
            several = [nodes for route in spared if len(nodes := observed.candidates(route)) > 1]
        self._nodes = tuple(sorted({node for nodes in several for node in nodes}, key=str))
        if self._nodes and self._watch is None:
            self._watch = tasks.keep("the look after the nodes", self._look_after, self._clock)
        elif not self._nodes and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _look_after(self) -> None:
        before: tuple[object, ...] = (set(), set(), "")
        while True:
            try:
                await self._table.ask(self._nodes)
                self._deaf = ""
            except HarnessError as error:
                self._deaf = error.message
            await self._clock.sleep(ASK_SECONDS)
            with contextlib.suppress(HarnessError):  # the cycle meets the same, and says so
                nodes, (silent, unsteady, _) = set(self._nodes), self._listen(await self._table.silent(), waited=True)
                state = silent & nodes, unsteady & nodes, self._deaf
                if state != before:
                    self._wake("a node's answer")
                before = state

    def condition(self, desired: tuple[Route, ...] | None, observed: Observed) -> Condition:
        desired = desired or ()
        said = objections(desired, observed)
        if said and said[0].truth is Truth.FALSE:
            return said[0]
        if missing := observed.wanted(desired) - observed.ours:
            networks = ", ".join(sorted(str(route.network) for route in missing))
            text = f"{len(missing)} of {len(desired)} are missing: {networks}"
            return wrong("Routes", Truth.FALSE, problems.ROUTE_FAILED.found(SETTING, text))
        if (astray := elsewhere(observed.routes, observed.ways)) is not None:
            return wrong("Routes", Truth.FALSE, astray)
        if said:
            return said[0]
        in_place = f"{phrases.counted(len(desired), 'route')} in place"
        nodes = {node for route in desired if route.spares for node in observed.candidates(route)}
        if silent := sorted(map(str, nodes & observed.silent)):
            found = problems.ROUTE_NODE_SILENT.found(ASKING, f"no answer from {', '.join(silent)}")
            return wrong("Routes", Truth.TRUE, found, stands=in_place)
        if nodes and observed.deaf:
            return wrong("Routes", Truth.TRUE, problems.ROUTE_NODE_SILENT.found(ASKING, observed.deaf), stands=in_place)
        return Condition("Routes", Truth.TRUE, in_place if desired else "no routes configured", applies=bool(desired))
