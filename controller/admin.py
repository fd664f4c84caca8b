"""`kubectl meshexp`: what administrators run where their kubeconfig is. As `kubectl-meshexp` on PATH it is kubectl's plugin."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence

import structlog

from controller import invite, model, roll
from controller.kubernetes import flags
from controller.kubernetes.client import Client
from controller.kubernetes.collection import KubernetesCollection
from controller.model import ExternalWorkload, Lease
from controller.roll import Machine
from controller.store import InvalidCallError, NotFoundError, RefusedCallError
from harness import terminal
from harness.arguments import Parser, output
from harness.decode import encode
from harness.errors import HarnessError, TemporaryError


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="kubectl meshexp", description="machines outside the cluster as members of its mesh")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    _add_get(verbs.add_parser("get", help="every machine: what it is, whether it is ready and why not, when it was heard last"))
    invite.add_arguments(verbs.add_parser("invite", help="let one machine join, by a file"))
    parsed = parser.parse_args(arguments)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if parsed.verb == "invite":
        return report(lambda: print(invite.run(parsed)))
    return report(lambda: _get(parsed))


def _add_get(get: argparse.ArgumentParser) -> None:
    get.add_argument("names", nargs="*", metavar="NAME", help="of an ExternalWorkload, or a host name; every machine if unset")
    get.add_argument("-n", "--namespace", default="", help="of the machines' groups; all if unset")
    get.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces, whatever -n says")
    get.add_argument("-l", "--selector", default="", help="only ExternalWorkloads with these labels, such as service=face")
    output(get, "table", "wide", "json")
    get.add_argument("--controller-namespace", default="meshexp", help="where the controller's leases are")
    flags.add_arguments(get)


def report(work: Callable[[], None]) -> int:
    """The exit code; an error is told on stderr."""
    try:
        work()
    except HarnessError as error:
        terminal.say(terminal.harmless(error.message if not error.hint else f"{error.message} ({error.hint})"), stream=sys.stderr)
        return error.exit_code
    return 0


def _get(options: argparse.Namespace) -> None:
    found, wall = asyncio.run(_machines(options))
    wanted = _named(found, options.names) if options.names else found
    if options.output == "json":
        # encode() leaves out what is None; here null has a meaning of its own.
        terminal.say_json([encode(machine) | {"ready": machine.ready} for machine in wanted])
    elif not wanted:
        print("no machine has these labels" if options.selector else "no machine has joined")
    else:
        wide = options.output == "wide"
        table, left_out = roll.table(wanted, wall, wide=wide, width=None if wide else terminal.columns())
        print(table)
        if left_out:
            names = ", ".join(left_out)
            terminal.say(f"the terminal is too narrow for these columns: {names}; `-o wide` shows all", stream=sys.stderr)


def _named(found: tuple[Machine, ...], names: Sequence[str]) -> tuple[Machine, ...]:
    """Raises NotFoundError when a name is no machine's."""
    for name in names:
        if not any(name in (machine.name, machine.hostname) for machine in found):
            raise NotFoundError(f"no machine has the name {name!r}", "`kubectl meshexp get -A` shows all")
    return tuple(machine for machine in found if machine.name in names or machine.hostname in names)


async def _machines(options: argparse.Namespace) -> tuple[tuple[Machine, ...], float]:
    """With the time of the API server's clock, which ages are counted by."""
    namespace = "" if options.all_namespaces else options.namespace
    selected = {"labelSelector": options.selector} if options.selector else {}
    async with Client(flags.find(options)) as client:
        workloads: KubernetesCollection[ExternalWorkload] = KubernetesCollection(
            client, model.WORKLOAD_API, "externalworkloads", model.workload_from_object, namespace=namespace, selected=selected
        )
        leases: KubernetesCollection[Lease] = KubernetesCollection(
            client, model.LEASE_API, "leases", model.lease_from_object, namespace=options.controller_namespace
        )
        try:
            items = (await workloads.list()).items
        except TemporaryError as error:
            if isinstance(error, RefusedCallError) and not isinstance(error, InvalidCallError):
                raise
            hint = f"is the selector {options.selector!r} as `kubectl get -l` takes it?" if options.selector else error.hint
            raise TemporaryError(error.message, hint) from None
        owners = await _leases(leases)
        return roll.machines(items, owners, client.server_wall), client.server_wall


async def _leases(leases: KubernetesCollection[Lease]) -> tuple[Lease, ...] | None:
    """None without the right to read them: the rest is worth showing all the same."""
    try:
        return (await leases.list()).items
    except TemporaryError as error:
        print("whether machines are ready, versions and times are not known:", terminal.harmless(error.message), file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
