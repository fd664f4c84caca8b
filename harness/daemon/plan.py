"""`meshexp plan`: observe and diff, never apply. Beside a daemon it shows what differs now, else what a start would do."""

from __future__ import annotations

import asyncio
import json
import os

from harness import decode, paths
from harness.clock import SystemClock
from harness.config import load
from harness.daemon import head_start, machine
from harness.daemon.compose import compose
from harness.desired import Progress, desired
from harness.messages import Registration
from harness.system import files


def run(output: str) -> int:
    machine.check_privileges()
    steps = asyncio.run(_steps(paths.from_environment()))
    if output == "json":
        print(json.dumps([{"part": part, "action": action} for part, action in steps], indent=2))
    else:
        for part, action in steps:
            print(action if "\n" in action else f"# {part}: {action}")
        if not steps:
            print("# nothing to do")
    return 0


async def _steps(where: paths.Paths) -> list[tuple[str, str]]:
    config = load.load(where, os.environ)
    found = await machine.look(config, where)
    clock = SystemClock()
    parts = await compose(config, where, clock, head_start.unstarted(found, where, clock))
    known = files.read_json(where.known_registration)
    registration = decode.decode(Registration, known, source="registration", lenient=True) if known else None
    # As if every gate were open: what a machine that joins now would get.
    want = desired(config, found, Progress(registration=registration, proxy_certified=registration is not None))
    running = files.is_locked(where.lock)
    chosen = (parts.routes, parts.redirect) if running else (parts.routes, parts.identity, parts.proxy, parts.redirect)
    steps = []
    for part in chosen:
        wanted = part.want(want)
        if wanted is not None:
            steps += [(part.name, str(action)) for action in part.reconciler.diff(wanted, await part.reconciler.observe())]
    return steps
