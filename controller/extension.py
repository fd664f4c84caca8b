"""`linkerd-meshexp` on an administrator's PATH is an extension of Linkerd's command: `linkerd check` runs its checks too.

Linkerd (cli/cmd/check_extensions.go) asks `_extension-metadata` first, and runs the extension only if the name in the answer is
that of the program. Then it calls `check` with those of its flags that have a value, as --name=value, and with --output=json.
It reads stdout, and shows stderr only when stdout is no JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence

from controller import checks
from controller.checks import Facts
from controller.kubernetes import flags
from controller.kubernetes.client import Client
from harness import terminal
from harness.arguments import Parser, output
from harness.check import report
from harness.check.report import Outcome, Result
from harness.errors import HarnessError
from harness.values import parse_duration

METADATA = {"name": "linkerd-meshexp", "checks": "always"}
AGAIN_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="linkerd meshexp", description="machines outside the cluster as members of its mesh")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    # Without abbreviations: what is not known is passed over, and must not be taken for something else.
    check = verbs.add_parser("check", help="the cluster's side: definitions, controller, leases, groups", allow_abbrev=False)
    output(check, "table", "short", "json")
    check.add_argument("-n", "--namespace", default="", help="only groups and machines of this one; all if unset")
    wait_help = "look again until nothing fails that passes by itself, at most so long, such as 5m0s (default: look once)"
    check.add_argument("--wait", type=_duration, metavar="DURATION", default=0.0, help=wait_help)
    check.add_argument("--controller-namespace", default="meshexp", help="where the controller is")
    flags.add_arguments(check)
    verbs.add_parser("_extension-metadata")
    options, unknown = parser.parse_known_args(arguments)
    parser.help_without_verb(options)
    if options.verb == "_extension-metadata":
        print(json.dumps(METADATA))
        return 0
    if unknown and options.output != "json":
        print(f"linkerd meshexp: not known here, and passed over: {' '.join(unknown)}", file=sys.stderr)
    results = asyncio.run(_check(options))
    if options.output == "json":
        terminal.say_json(report.linkerd_document(results))
    else:
        table = report.table(results, colour=terminal.escapes(), short=options.output == "short")
        terminal.say(table)
    return 0 if report.success(results) else 1


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def _check(options: argparse.Namespace) -> tuple[Result, ...]:
    """Looks until all is well, --wait is over, or waiting is of no use."""
    deadline = time.monotonic() + options.wait
    said = ""
    while True:
        facts = await _look(options)
        results = tuple(checks.judge(facts, options.controller_namespace))
        left = deadline - time.monotonic()
        missing = _missing(facts, results)
        if not missing or left <= 0:
            return results
        if missing != said and options.output != "json":
            print(f"waiting for at most {left:.0f} s: {missing}", file=sys.stderr, flush=True)
            said = missing
        await asyncio.sleep(min(left, AGAIN_SECONDS))


async def _look(options: argparse.Namespace) -> Facts:
    try:
        access = flags.find(options)
    except HarnessError as error:
        return Facts(error=error.message, final=True)
    async with Client(access) as client:
        return await checks.gather(client, options.controller_namespace, options.namespace)


def _missing(facts: Facts, results: tuple[Result, ...]) -> str:
    """What may still come by itself; nothing where the credentials are refused, and in a cluster that has nothing of ours.

    `linkerd check` hands over a --wait of 5 minutes, also for clusters that have no machines.
    """
    if facts.final or not (facts.error or facts.is_installed):
        return ""
    failed = (one for one in results if one.outcome is Outcome.FAILED and one.problem is not None)
    return ", ".join(one.description for one in failed if one.problem and one.problem.code in checks.COMES_BY_ITSELF)


if __name__ == "__main__":
    sys.exit(main())
