"""`meshexp check`: what is wrong with this machine, or would be, and how to fix it; in the manner of `linkerd check`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from harness import paths, status_cli, terminal
from harness.arguments import output, seconds
from harness.paths import Paths

POLL_SECONDS = 1.0


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "check",
        help="what is wrong with this machine and how to fix it; exit code 1 when a check fails",
        description="Looks at everything that the mesh needs of this machine, and changes nothing. Warnings are no failure.",
    )
    scope = verb.add_mutually_exclusive_group()
    scope.add_argument("--pre", action="store_true", help="before joining: only what the configuration needs")
    scope.add_argument("--proxy", action="store_true", help="only the data plane: proxy, registration, probes, redirect")
    output(verb, "table", "short", "json", text="short: only what is wrong")
    verb.add_argument(
        "--wait", type=seconds, default=0.0, metavar="SECONDS", help="look again until all is well, at most so long"
    )
    return verb


def run(options: argparse.Namespace) -> int:
    from harness import lean_imports

    lean_imports.apply()

    from harness.check import report
    from harness.check.run import Scope

    scope = Scope.PRE if options.pre else Scope.PROXY if options.proxy else Scope.ALL
    deadline = time.monotonic() + options.wait
    where = paths.from_environment()
    if options.output == "json" or options.wait:
        results = _waited(where, scope, deadline)
        if options.output == "json":
            terminal.say_json(report.document(results))
        else:
            _print(report.table(results, colour=terminal.escapes(), short=options.output == "short").split("\n"))
    else:
        results = asyncio.run(_shown(where, scope, report.Table(terminal.escapes(), options.output == "short")))
    return 0 if report.success(results) else 1


async def _shown(where: Paths, scope: Any, table: Any) -> Any:
    """Prints each result as it comes."""
    found = []
    async for result in _stream(where, scope):
        found.append(result)
        _print(table.lines(result))
    _print(table.end(tuple(found)))
    return tuple(found)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        terminal.say(line)


def _waited(where: Paths, scope: Any, deadline: float) -> Any:
    """The results of the last look. Those of the looks before it are summed up on standard error, where that changes."""
    from harness.check import report

    said = ""
    while True:
        results = look(where, scope)
        left = deadline - time.monotonic()
        if report.success(results) or left <= 0:
            return results
        wrong = report.codes(results)
        if wrong != said:
            print(f"not well yet: {wrong}; looking again for {left:.0f} s at most", file=sys.stderr, flush=True)
            said = wrong
        time.sleep(POLL_SECONDS)


def look(where: Paths, scope: Any) -> Any:
    async def all_of_it() -> Any:
        return tuple([result async for result in _stream(where, scope)])

    return asyncio.run(all_of_it())


def _stream(where: Paths, scope: Any) -> Any:
    from harness.check.run import stream
    from harness.clock import SystemClock

    return stream(where, os.environ, status_cli.read(where), scope, SystemClock())
