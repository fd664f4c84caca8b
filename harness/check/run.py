"""The table of categories, when each is looked at, and one look at all of them at once."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness import decode
from harness.check import control_plane, firewall, identity, machine, membership, names, network, proxy
from harness.check.context import UNCONFIGURED, Context
from harness.check.report import Judge, Outcome, Result, on_this_machine
from harness.check_problems import CONFIG_INVALID
from harness.clock import Clock
from harness.config import load, schema
from harness.daemon import head_start, in_force
from harness.errors import ConfigError, HarnessError
from harness.paths import Paths
from harness.system import files

F = TypeVar("F")


class Scope(enum.Enum):
    """`pre`: before joining. `proxy`: the data plane only."""

    ALL = "all"
    PRE = "pre"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Category(Generic[F]):
    """`what` it is about, in words. `facts()`: what is known when nobody has looked; no check passes on it. `bare`: it needs no
    configuration."""

    name: str
    what: str
    facts: type[F]
    gather: Callable[[Context], Awaitable[F]]
    judge: Callable[[Context, F], Iterator[Result]]
    scopes: frozenset[Scope]
    bare: bool = False

    async def look(self, context: Context) -> tuple[Result, ...]:
        if not context.configured and not self.bare:
            return (self.skipped(UNCONFIGURED.why),)
        try:
            facts = await self.gather(context)
        except (HarnessError, OSError) as error:
            return (self.skipped(f"{self.what} cannot be looked at: {error}"),)
        return tuple(on_this_machine(result, context.hints) for result in self.judge(context, facts))

    def skipped(self, why: str) -> Result:
        return Judge(self.name).skipped(self.what, why)


_PRE, _PROXY = frozenset({Scope.ALL, Scope.PRE}), frozenset({Scope.ALL, Scope.PROXY})
CATEGORIES: tuple[Category[Any], ...] = (
    Category(machine.NAME, "this machine", machine.Facts, machine.gather, machine.judge, _PRE, bare=True),
    Category(network.NAME, "the way to the cluster", network.Facts, network.gather, network.judge, _PRE),
    Category(names.NAME, "names of the control plane", names.Facts, names.gather, names.judge, _PRE),
    Category(control_plane.NAME, "the control plane", control_plane.Facts, control_plane.gather, control_plane.judge, _PRE),
    Category(firewall.NAME, "other firewall rules", firewall.Facts, firewall.gather, firewall.judge, _PRE, bare=True),
    Category(identity.NAME, "this machine's identity", identity.Facts, identity.gather, identity.judge, _PRE),
    Category(proxy.NAME, "the proxy", proxy.Facts, proxy.gather, proxy.judge, _PRE | _PROXY, bare=True),
    Category(membership.NAME, "the membership", membership.Facts, membership.gather, membership.judge, _PROXY),
)


async def look(
    paths: Paths, environ: Mapping[str, str], status: dict[str, Any], scope: Scope, clock: Clock
) -> tuple[Result, ...]:
    """Every result, in the order of the categories; changes nothing. `status`: what `meshexp status` reads."""
    categories = [category for category in CATEGORIES if scope in category.scopes]
    first, config = _configuration(paths, environ, scope)
    if config is None:
        return first, *(category.skipped("the configuration is wrong") for category in categories)
    configured = first.outcome is not Outcome.SKIPPED
    known = head_start.known_registration(paths) if scope is not Scope.PRE else None
    anchors = files.read_line(Path(config.controller.trust_anchors)) or ""
    context = Context(
        config, paths, status, known, anchors, scope is Scope.PRE, clock.wall(), configured=configured, root=os.geteuid() == 0
    )
    if scope is not Scope.PROXY:
        context = dataclasses.replace(context, frame=await identity.ask(context))
    looks = (category.look(context) for category in categories)
    found = tuple(result for results in await asyncio.gather(*looks) for result in results)
    return found if scope is Scope.PROXY and first.outcome is Outcome.PASSED else (first, *found)


def _configuration(paths: Paths, environ: Mapping[str, str], scope: Scope) -> tuple[Result, schema.Config | None]:
    """The result for the configuration, and the one for the other checks: while a member's files are wrong, what is in force."""
    to = Judge(machine.NAME)
    text = "the configuration is right"
    try:
        if not load.is_unconfigured(paths, environ):
            return to.passed(text), load.load(paths, environ)
        instance = f" --instance {paths.instance}" if paths.instance else ""
        why = (
            f"{UNCONFIGURED.why}; next: `meshexp join{instance} INVITATION`, which configures this machine and makes it a member"
        )
        return to.skipped(text, why), _defaults(paths, environ)
    except ConfigError as error:
        before = in_force.kept(paths, error.message) if scope is not Scope.PRE else None
        reason = "\n".join(map(str, error.faults))
        return to.failed(text, CONFIG_INVALID, reason), before.config if before else None


def _defaults(paths: Paths, environ: Mapping[str, str]) -> schema.Config:
    """What is configured so far, with a group of which no controller is asked. Raises ConfigError."""
    layers, _ = load.sources(paths, environ)
    nobody = {"group": "not-configured-yet", "namespace": "not-configured-yet"}
    return decode.decode(schema.Config, {**layers.values, "workload": nobody}, source="configuration")
