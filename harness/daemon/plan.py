"""`meshexp plan`: observe and diff, never apply. Beside a daemon it shows what differs now, else what a start would do."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from harness import paths
from harness.clock import SystemClock
from harness.config import load
from harness.daemon import head_start, machine
from harness.daemon.compose import compose
from harness.desired import Progress, desired
from harness.system import files


def run(output: str) -> int:
    machine.check_privileges()
    steps = [(part, str(action)) for part, action in asyncio.run(actions(paths.from_environment()))]
    if output == "json":
        print(json.dumps([{"part": part, "action": action} for part, action in steps], indent=2))
    else:
        for part, action in steps:
            print(action if "\n" in action else f"# {part}: {action}")
        if not steps:
            print("# nothing to do")
    return 0


async def actions(where: paths.Paths) -> list[tuple[str, Any]]:
    """By part, in the order in which they would be applied."""
    config = load.load(where, os.environ)
    found = await machine.look(config, where)
    clock = SystemClock()
    begun = head_start.unstarted(found, where, clock)
    parts, registration = await compose(config, where, clock, begun), begun.registration
    # As if every gate were open: what a machine that joins now would get.
    want = desired(config, found, Progress(registration=registration, proxy_certified=registration is not None))
    running = files.is_locked(where.lock)
    if running:
        chosen = [parts.routes, parts.redirect]
    else:
        chosen = [parts.routes, parts.identity, parts.proxy, parts.redirect]
    steps: list[tuple[str, Any]] = []
    for part in chosen:
        wanted = part.want(want)
        if wanted is not None:
            steps += [(part.name, action) for action in part.reconciler.diff(wanted, await part.reconciler.observe())]
    return steps
