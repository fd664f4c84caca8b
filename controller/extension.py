"""`linkerd-meshexp` on an administrator's PATH is an extension of Linkerd's command: `linkerd check` runs its checks too.

Linkerd asks `_extension-metadata` first, then calls `check --output json` with all of its own flags, which are let pass.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence

from controller import checks
from controller.kubernetes import access
from controller.kubernetes.client import Client
from harness.check import report
from harness.errors import HarnessError

METADATA = {"name": "meshexp", "checks": "always"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="linkerd meshexp", description="machines outside the cluster as members of its mesh")
    verbs = parser.add_subparsers(dest="verb", required=True)
    check = verbs.add_parser("check", help="the cluster's side: definitions, controller, leases, groups")
    check.add_argument("-o", "--output", choices=("table", "short", "json"), default="table")
    check.add_argument("--kubeconfig", default="")
    check.add_argument("--controller-namespace", default="meshexp")
    verbs.add_parser("_extension-metadata")
    options, _ = parser.parse_known_args(arguments)
    if options.verb == "_extension-metadata":
        print(json.dumps(METADATA))
        return 0
    results = asyncio.run(_check(options.kubeconfig, options.controller_namespace))
    if options.output == "json":
        print(report.to_linkerd_json(results))
    else:
        print(report.render(results, options.output, colour=sys.stdout.isatty()))
    return 0 if report.success(results) else 1


async def _check(kubeconfig: str, namespace: str) -> tuple[report.Result, ...]:
    try:
        found = access.find(kubeconfig)
    except HarnessError as error:
        return tuple(checks.judge(checks.Facts(error=error.message), namespace, time.time()))
    async with Client(found) as client:
        return tuple(checks.judge(await checks.gather(client, namespace), namespace, time.time()))


if __name__ == "__main__":
    sys.exit(main())
