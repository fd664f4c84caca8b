"""`kubectl meshexp`: what administrators run where their kubeconfig is. As `kubectl-meshexp` on PATH it is kubectl's plugin."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence

import structlog

from controller import invite, model, roll
from controller.kubernetes import access
from controller.kubernetes.client import Client
from controller.kubernetes.store import KubernetesCollection
from controller.model import ExternalWorkload, Lease
from controller.roll import Machine
from harness.decode import encode
from harness.errors import HarnessError, TemporaryError


def main(arguments: Sequence[str] | None = None) -> int:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    parser = argparse.ArgumentParser(prog="kubectl meshexp", description="machines outside the cluster as members of its mesh")
    verbs = parser.add_subparsers(dest="verb", required=True)
    get = verbs.add_parser("get", help="every machine: what it is, whether it is ready and why not, when it was heard last")
    get.add_argument("-n", "--namespace", default="", help="of the machines' groups; all if unset")
    get.add_argument("-o", "--output", choices=("table", "json"), default="table")
    get.add_argument("--kubeconfig", default="")
    get.add_argument("--controller-namespace", default="meshexp")
    invite.add_arguments(verbs.add_parser("invite", help="let one machine join, by a file"))
    parsed = parser.parse_args(arguments)
    if parsed.verb == "invite":
        return report(lambda: print(invite.run(parsed)))
    return report(lambda: _get(parsed))


def report(work: Callable[[], None]) -> int:
    """The exit code; an error is told on stderr."""
    try:
        work()
    except HarnessError as error:
        print(error.message if not error.hint else f"{error.message} ({error.hint})", file=sys.stderr)
        return error.exit_code
    return 0


def _get(options: argparse.Namespace) -> None:
    found, now = asyncio.run(_machines(options)), time.time()
    if options.output == "json":
        print(json.dumps([encode(machine) for machine in found], indent=2))
    else:
        print(roll.table(found, now) if found else "no machine has joined")


async def _machines(options: argparse.Namespace) -> tuple[Machine, ...]:
    async with Client(access.find(options.kubeconfig)) as client:
        workloads: KubernetesCollection[ExternalWorkload] = KubernetesCollection(
            client, model.WORKLOAD_API, "externalworkloads", model.workload_from_object, namespace=options.namespace
        )
        leases: KubernetesCollection[Lease] = KubernetesCollection(
            client, model.LEASE_API, "leases", model.lease_from_object, namespace=options.controller_namespace
        )
        items, owners = (await workloads.list()).items, await _leases(leases)
    return roll.machines(items, owners, time.time())


async def _leases(leases: KubernetesCollection[Lease]) -> tuple[Lease, ...]:
    """Without the right to read them, the rest is worth showing all the same."""
    try:
        return (await leases.list()).items
    except TemporaryError as error:
        print(f"versions and times are not shown: {error.message}", file=sys.stderr)
        return ()


if __name__ == "__main__":
    sys.exit(main())
