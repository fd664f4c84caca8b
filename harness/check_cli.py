"""`meshexp check`: what is wrong with this machine, or would be, and what mends it; in the manner of `linkerd check`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from typing import Any

from harness import paths, status_cli
from harness.paths import Paths

POLL_SECONDS = 1.0


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "check",
        help="what is wrong with this machine and what mends it; exit code 1 when a check fails",
        description="Looks at everything that the mesh needs of this machine, and changes nothing. Warnings are no failure.",
    )
    scope = verb.add_mutually_exclusive_group()
    scope.add_argument("--pre", action="store_true", help="before joining: only what the configuration needs")
    scope.add_argument("--proxy", action="store_true", help="only the data plane: proxy, registration, probes, redirect")
    verb.add_argument("-o", "--output", choices=("table", "short", "json"), default="table", help="short: only what is wrong")
    verb.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="look again until all is well, at most so long")
    return verb


def run(options: argparse.Namespace) -> int:
    from harness import lean_imports

    lean_imports.apply()

    from harness.check import report
    from harness.check.run import Scope

    scope = Scope.PRE if options.pre else Scope.PROXY if options.proxy else Scope.ALL
    deadline = time.monotonic() + options.wait
    while True:
        results = look(paths.from_environment(), scope)
        if report.success(results) or time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(printable(report.render(results, options.output, colour=colour)))
    return 0 if report.success(results) else 1


def look(where: Paths, scope: Any) -> Any:
    from harness.check.run import look as once
    from harness.clock import SystemClock

    return asyncio.run(once(where, os.environ, status_cli.read(where), scope, SystemClock()))


def printable(text: str) -> str:
    """A terminal without Unicode gets question marks instead of an error."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
