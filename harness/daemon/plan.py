"""`meshexp plan`: observe and diff, never apply. Beside a daemon it shows what differs now, else what a start would do."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any

from harness import hints, paths
from harness.clock import SystemClock
from harness.config import load
from harness.daemon import head_start, machine
from harness.daemon.compose import compose
from harness.desired import Progress, desired
from harness.problems import Problem, Severity
from harness.reconcilers import dns, routes
from harness.system import files, privileges, process


@dataclass(frozen=True, slots=True)
class Objection:
    """What is in the way, and stays as it is."""

    message: str
    problem: Problem

    def __str__(self) -> str:
        return f"{'×' if self.problem.severity is Severity.ERROR else '‼'} {self.message} ({self.problem.hint})"


def run(output: str) -> int:
    privileges.check()
    steps = asyncio.run(actions(paths.from_environment()))
    if output == "json":
        print(json.dumps([_record(part, action) for part, action in steps], indent=2))
    else:
        for part, action in steps:
            print(action if "\n" in str(action) else f"# {part}: {action}")
        if not steps:
            print("# nothing to do")
    return 0


def _record(part: str, action: Any) -> dict[str, str]:
    if isinstance(action, Objection):
        return {"part": part, "problem": action.problem.code, "message": action.message, "hint": action.problem.hint}
    return {"part": part, "action": str(action)}


async def actions(where: paths.Paths) -> list[tuple[str, Any]]:
    """By part, in the order in which they would be applied; before them what is in the way."""
    config = load.load(where, os.environ)
    found = await machine.look(config, where)
    clock = SystemClock()
    begun = head_start.unstarted(found, where, clock)
    parts, registration = await compose(config, where, clock, begun), begun.registration
    # As if every gate were open: what a machine that joins now would get.
    progress = Progress(registration=registration, identity_served=True, proxy_certified=registration is not None)
    want = desired(config, found, progress)
    running = files.is_locked(where.lock)
    if running:
        chosen = [parts.routes, parts.dns, parts.redirect]
    else:
        chosen = [parts.routes, parts.dns, parts.identity, parts.proxy, parts.redirect]
    there = await parts.routes.reconciler.observe()
    said = routes.objections(want.routes or (), there) if isinstance(there, routes.Observed) else ()
    known = hints.general(where, config)
    steps: list[tuple[str, Any]] = [(parts.routes.name, Objection(c.message, met)) for c in said if (met := c.met(known))]
    for part in chosen:
        wanted = part.want(want)
        if wanted is not None:
            steps += [(part.name, action) for action in await _differences(part.reconciler, wanted)]
    return [(part, action) for part, action in steps if not (running and _runs(action, where))]


def _runs(action: Any, where: paths.Paths) -> bool:
    """Whether it starts a dnsmasq that runs already: without systemd it is the daemon's child, and only the daemon knows it."""
    if not isinstance(action, dns.Start) or files.text(where.dnsmasq) != action.conf:
        return False
    return process.recorded(where.children / f"{dns.NAME}.json") is not None


async def _differences(reconciler: Any, wanted: Any) -> tuple[Any, ...]:
    """Asks the questions among the actions, which change nothing: what else there is to do depends on the answers."""
    actions: tuple[Any, ...] = reconciler.diff(wanted, await reconciler.observe())
    questions = [action for action in actions if isinstance(action, dns.Ask)]
    if not questions:
        return actions
    for question in questions:
        await reconciler.apply(question)
    return tuple(reconciler.diff(wanted, await reconciler.observe()))
