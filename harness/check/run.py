"""The table of categories, when each is looked at, and one look at all of them at once."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness import anchors as trusted
from harness import decode
from harness.check import control_plane, firewall, identity, machine, membership, names, network, proxy, reach
from harness.check.context import UNCONFIGURED, Context, needs_root
from harness.check.report import NOT_LOOKED, Judge, Outcome, Result, Untried, on_this_machine
from harness.check_problems import CONFIG_INVALID
from harness.clock import Clock
from harness.config import load, schema
from harness.daemon import anchors_kept, head_start, in_force
from harness.errors import ConfigError, HarnessError, PermissionError_, UnreadableError
from harness.paths import Paths
from harness.system import files
from harness.system.workload_api import Frame

F = TypeVar("F")


class Scope(enum.Enum):
    """`pre`: before joining. `proxy`: the data plane only. `joined`: what a join asks at its end."""

    ALL = "all"
    PRE = "pre"
    PROXY = "proxy"
    JOINED = "joined"


@dataclass(frozen=True, slots=True)
class Category(Generic[F]):
    """`what` it is about, in words. `facts()`: what is known when nobody has looked; no check passes on it. `bare`: it needs no
    configuration. `framed`: it needs what the Workload API gives, which takes a moment; the others do not wait for it."""

    name: str
    what: str
    facts: type[F]
    gather: Callable[[Context], Awaitable[F]]
    judge: Callable[[Context, F], Iterator[Result]]
    scopes: frozenset[Scope]
    bare: bool = False
    framed: bool = False

    async def look(self, context: Context, asked: Awaitable[Frame | Untried] | None = None) -> tuple[Result, ...]:
        if not context.configured and not self.bare:
            return (self.skipped(UNCONFIGURED.why),)
        try:
            if self.framed and asked is not None:
                context = dataclasses.replace(context, frame=await asked)
            facts = await self.gather(context)
        except (HarnessError, OSError) as error:
            if isinstance(error, (PermissionError, PermissionError_)) and not context.root:
                return (self.skipped(needs_root(str(error)).why),)
            return (self.skipped(f"{self.what} cannot be looked at: {error}"),)
        return tuple(on_this_machine(result, context.hints) for result in self.judge(context, facts))

    def skipped(self, why: str) -> Result:
        return Judge(self.name).skipped(self.what, why)


_PRE, _PROXY = frozenset({Scope.ALL, Scope.PRE}), frozenset({Scope.ALL, Scope.PROXY})
_ASKED = frozenset({Scope.ALL, Scope.JOINED})
CATEGORIES: tuple[Category[Any], ...] = (
    Category(machine.NAME, "this machine", machine.Facts, machine.gather, machine.judge, _PRE, bare=True),
    Category(network.NAME, "the way to the cluster", network.Facts, network.gather, network.judge, _PRE),
    Category(names.NAME, "names of the control plane", names.Facts, names.gather, names.judge, _PRE),
    Category(
        control_plane.NAME, "the control plane", control_plane.Facts, control_plane.gather, control_plane.judge, _PRE, framed=True
    ),
    Category(firewall.NAME, "other firewall rules", firewall.Facts, firewall.gather, firewall.judge, _PRE, bare=True),
    Category(identity.NAME, "this machine's identity", identity.Facts, identity.gather, identity.judge, _PRE, framed=True),
    Category(proxy.NAME, "the proxy", proxy.Facts, proxy.gather, proxy.judge, _PRE | _PROXY, bare=True),
    Category(membership.NAME, "the membership", membership.Facts, membership.gather, membership.judge, _PROXY),
    Category(reach.NAME, "the way from peers", reach.Facts, reach.gather, reach.judge, _ASKED, framed=True),
)


async def stream(
    paths: Paths, environ: Mapping[str, str], status: dict[str, Any], scope: Scope, clock: Clock
) -> AsyncIterator[Result]:
    """Every result, in the order of the categories, each as soon as it is there; all categories are looked at at once.

    Changes nothing. `status`: what `meshexp status` reads.
    """
    categories = [category for category in CATEGORIES if scope in category.scopes]
    first, config = _configuration(paths, environ, scope)
    if scope is not Scope.PROXY or first.outcome is not Outcome.PASSED:
        yield first
    if config is None:
        why = first.reason if first.outcome is Outcome.SKIPPED else "the configuration is wrong"
        for category in categories:
            yield category.skipped(why)
        return
    configured = first.outcome is not Outcome.SKIPPED
    known = head_start.known_registration(paths) if scope is not Scope.PRE else None
    anchors, unread = _anchors(config, paths, scope)
    context = Context(
        config, paths, status, known, anchors, scope is Scope.PRE, clock.wall(),
        configured=configured, root=os.geteuid() == 0, anchors_unread=unread,
    )  # fmt: skip
    asked = asyncio.create_task(identity.ask(context) if scope is not Scope.PROXY else _nobody())
    looks = [asyncio.create_task(category.look(context, asked)) for category in categories]
    try:
        for look_ in looks:
            for result in await look_:
                yield result
    finally:
        for task in (asked, *looks):
            task.cancel()
        await asyncio.gather(asked, *looks, return_exceptions=True)


def _anchors(config: schema.Config, paths: Paths, scope: Scope) -> tuple[str, str]:
    """The trust anchors that this machine goes by, and why their file cannot be read."""
    try:
        pem = files.read_line(Path(config.controller.trust_anchors)) or ""
        adopted = anchors_kept.read(config, paths) if scope is not Scope.PRE else None
    except UnreadableError as error:
        return "", str(error)
    return (trusted.with_file(pem, adopted) if adopted is not None else pem), ""


async def _nobody() -> Untried:
    return NOT_LOOKED


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
    except PermissionError_ as error:
        return to.skipped(text, needs_root(error.message).why), None
    except ConfigError as error:
        before = in_force.kept(paths, error.message) if scope is not Scope.PRE else None
        reason = "\n".join(map(str, error.faults))
        return to.failed(text, CONFIG_INVALID, reason), before.config if before else None


def _defaults(paths: Paths, environ: Mapping[str, str]) -> schema.Config:
    """What is configured so far, with a group of which no controller is asked. Raises ConfigError."""
    layers, _ = load.sources(paths, environ)
    nobody = {"group": "not-configured-yet", "namespace": "not-configured-yet"}
    return decode.decode(schema.Config, {**layers.values, "workload": nobody}, source="configuration")
