"""Routes to the cluster's networks. Ours carry our own protocol number; others' are never touched."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from harness import problems
from harness.specs import ROUTE_PROTOCOL, Route
from harness.status import Condition, Truth
from harness.values import IPAddress


class Verb(enum.Enum):
    ADD = "add"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    verb: Verb
    route: Route

    def __str__(self) -> str:
        return f"{self.verb.value} {self.route}"


@dataclass(frozen=True, slots=True)
class Observed:
    """All routes of the main table."""

    routes: tuple[Route, ...]

    @property
    def ours(self) -> frozenset[Route]:
        return frozenset(r for r in self.routes if r.protocol == ROUTE_PROTOCOL)

    def conflicts(self, desired: tuple[Route, ...]) -> tuple[Route, ...]:
        """Routes of others that already lead to a network that we want."""
        wanted = {r.network for r in desired}
        return tuple(r for r in self.routes if r.protocol != ROUTE_PROTOCOL and r.network in wanted)

    def unreachable(self, desired: tuple[Route, ...]) -> tuple[IPAddress, ...]:
        """Gateways that are wanted and lie on no directly connected network."""
        on_link = [r.network for r in self.routes if r.via is None]
        gateways = {r.via for r in desired if r.via is not None}
        return tuple(sorted((g for g in gateways if not any(g in network for network in on_link)), key=str))


class RouteTable(Protocol):
    async def routes(self) -> tuple[Route, ...]: ...
    async def add(self, route: Route) -> None: ...
    async def delete(self, route: Route) -> None: ...


class Routes:
    name = "routes"

    def __init__(self, table: RouteTable) -> None:
        self._table = table

    async def observe(self) -> Observed:
        return Observed(await self._table.routes())

    def diff(self, desired: tuple[Route, ...] | None, observed: Observed) -> tuple[Change, ...]:
        wanted = set(desired or ())
        taken = {r.network for r in observed.conflicts(desired or ())}
        unreachable = observed.unreachable(desired or ())
        missing = {r for r in wanted - observed.ours if r.network not in taken and r.via not in unreachable}
        deletions = [Change(Verb.DELETE, r) for r in sorted(observed.ours - wanted, key=str)]
        return (*deletions, *(Change(Verb.ADD, r) for r in sorted(missing, key=str)))

    async def apply(self, action: Change) -> None:
        await (self._table.add if action.verb is Verb.ADD else self._table.delete)(action.route)

    def condition(self, desired: tuple[Route, ...] | None, observed: Observed) -> Condition:
        desired = desired or ()
        if unreachable := observed.unreachable(desired):
            gateways = ", ".join(map(str, unreachable))
            return Condition(
                "Routes", Truth.FALSE, f"{gateways} is on no link of this machine", problems.ROUTE_GATEWAY_UNREACHABLE
            )
        conflicts = observed.conflicts(desired)
        missing = {r for r in set(desired) - observed.ours if r.network not in {c.network for c in conflicts}}
        if missing:
            return Condition("Routes", Truth.FALSE, f"{len(missing)} of {len(desired)} routes are missing", problems.ROUTE_FAILED)
        if conflicts:
            there = ", ".join(f"{r} (proto {r.protocol})" for r in conflicts)
            return Condition("Routes", Truth.TRUE, f"left alone, not ours: {there}", problems.ROUTE_CONFLICT)
        return Condition("Routes", Truth.TRUE, f"{len(desired)} routes in place" if desired else "no routes configured")
