"""The table of categories, when each is looked at, and one look at all of them at once."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness import decode
from harness.check import control_plane, firewall, identity, machine, membership, names, network, proxy
from harness.check.context import Context
from harness.check.report import Judge, Result
from harness.check_problems import CONFIG_INVALID
from harness.clock import Clock
from harness.config import load
from harness.errors import ConfigError
from harness.messages import Registration
from harness.paths import Paths
from harness.system import files

F = TypeVar("F")


class Scope(enum.Enum):
    """`pre`: before joining. `proxy`: the data plane only."""

    ALL = "all"
    PRE = "pre"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Category:
    look: Callable[[Context], Awaitable[tuple[Result, ...]]]
    scopes: frozenset[Scope]


def _category(
    gather: Callable[[Context], Awaitable[F]], judge: Callable[[Context, F], Iterator[Result]], *scopes: Scope
) -> Category:
    async def look(context: Context) -> tuple[Result, ...]:
        return tuple(judge(context, await gather(context)))

    return Category(look, frozenset((Scope.ALL, *scopes)))


CATEGORIES = (
    _category(machine.gather, machine.judge, Scope.PRE),
    _category(network.gather, network.judge, Scope.PRE),
    _category(names.gather, names.judge, Scope.PRE),
    _category(control_plane.gather, control_plane.judge, Scope.PRE),
    _category(firewall.gather, firewall.judge, Scope.PRE),
    _category(identity.gather, identity.judge, Scope.PRE),
    _category(proxy.gather, proxy.judge, Scope.PRE, Scope.PROXY),
    _category(membership.gather, membership.judge, Scope.PROXY),
)


async def look(
    paths: Paths, environ: Mapping[str, str], status: dict[str, Any], scope: Scope, clock: Clock
) -> tuple[Result, ...]:
    """Every result, in the order of the categories; changes nothing. `status`: what `meshexp status` reads."""
    try:
        config = load.load(paths, environ)
    except ConfigError as error:
        reason = "\n".join(map(str, error.faults))
        return (Judge("meshexp-machine").failed("the configuration is right", CONFIG_INVALID, reason),)
    left = files.read_json(paths.known_registration) if scope is not Scope.PRE else {}
    known = decode.decode(Registration, left, source="registration", lenient=True) if left else None
    anchors = files.read_line(Path(config.controller.trust_anchors)) or ""
    context = Context(config, paths, status, known, anchors, scope is Scope.PRE, clock.wall())
    if scope is not Scope.PROXY:
        context = dataclasses.replace(context, frame=await identity.ask(context))
    looks = (category.look(context) for category in CATEGORIES if scope in category.scopes)
    return tuple(result for results in await asyncio.gather(*looks) for result in results)
