"""`meshexp-controller run --config FILE`: the controller as a process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence

import structlog

import harness
from controller import admin, invite, reach
from controller import config as configuration
from controller.app import Controller
from controller.config import ControllerConfig
from controller.embedded_store import EmbeddedStore
from controller.kubernetes import access
from controller.kubernetes.client import Client
from controller.kubernetes.cluster import Cluster
from controller.kubernetes.store import KubernetesStore
from harness.arguments import Parser, output
from harness.clock import SystemClock
from harness.errors import ConfigError
from harness.terminal import Answer

_FLAGS = {
    "tls-cert": "the server's certificate chain, PEM",
    "tls-key": "its key, PEM",
    "trust-anchors": "what client certificates must lead to, PEM",
    "trust-domain": "the SPIFFE trust domain of the clients",
    "listen": "host:port for machines; [::]:8081 is every address, of IPv4 and of IPv6",
    "health-listen": "host:port for /healthz, /readyz and /metrics, without TLS",
    "fleet-listen": "host:port for the fleet's page, without TLS or login: keep it on loopback; none if unset",
    "groups": "directory of ExternalGroup manifests, read again when it changes",
    "facts": "YAML file: what machines are told of the cluster",
    "kubeconfig": "for --kubernetes outside a pod",
    "service-account": "the controller's own, which its name in the mesh is made of",
    "namespace": "the controller's own; that of its account or of the kubeconfig's context if unset",
    "identity-token": "file of a token of the service account for the audience identity.l5d.io",
    "identity-address": "host:port of Linkerd's identity service, if not the usual one",
    "linkerd-namespace": "where Linkerd's control plane is",
    "replica": "this replica's name, if not the host's",
    "lease": "how long a silent machine stays ready, such as 30s",
    "expiry": "how long a silent machine is remembered, such as 15m",
    "drain": "how long a leaving machine serves on after it is not ready",
    "hold": "how long an answer is held at most",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="meshexp-controller", description="Lets machines outside the cluster join its mesh.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    run = verbs.add_parser("run", help="serve until SIGTERM; SIGHUP reads certificate, facts and groups again")
    run.add_argument("--config", metavar="FILE", help="YAML; its keys are the flags with underscores")
    for name, text in _FLAGS.items():
        run.add_argument(f"--{name}", help=text)
    run.add_argument("--kubernetes", action="store_const", const=True, help="objects, facts and certificate are a cluster's")
    invite.add_arguments(verbs.add_parser("invite", help="let one machine join, by a file; run it where your kubeconfig is"))
    reach.add_arguments(verbs.add_parser("reach", help="whether a controller answers there by its name in the mesh"))
    output(verbs.add_parser("version", help="print the version"))
    parsed = parser.parse_args(arguments)
    if parsed.verb == "version":
        answer = Answer(parsed.output)
        answer.say(harness.__version__)
        return answer.end(0, version=harness.__version__)
    if parsed.verb == "invite":
        return admin.report(lambda: print(invite.run(parsed)))
    if parsed.verb == "reach":
        return admin.report(lambda: print(reach.run(parsed)))
    options = vars(parsed)
    del options["verb"]
    path = options.pop("config")
    _log_json()
    flags = {name: value for name, value in options.items() if value is not None}
    return admin.report(lambda: asyncio.run(_serve(configuration.load(path, flags))))


async def _serve(config: ControllerConfig) -> None:
    clock, loop = SystemClock(), asyncio.get_running_loop()
    stopped, reload = asyncio.Event(), asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(_made(config, clock)))

        def stop() -> None:
            starting.cancel()  # it may wait for the cluster or for its certificate; once it serves, this does nothing
            stopped.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        await asyncio.wait((starting,))
        if starting.cancelled():
            return
        controller = starting.result()
        tasks = [asyncio.create_task(stopped.wait()), asyncio.create_task(controller.wait())]
        tasks.append(asyncio.create_task(_reload(controller, reload)))
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for task in done:
            task.result()


@contextlib.asynccontextmanager
async def _made(config: ControllerConfig, clock: SystemClock) -> AsyncIterator[Controller]:
    if not config.kubernetes:
        async with Controller(config, EmbeddedStore(clock), clock) as controller:
            yield controller
        return
    found = access.find(config.kubeconfig)
    config = dataclasses.replace(config, namespace=config.namespace or found.namespace)
    # Leases have a connection of their own: a replica must not seem dead because many writes are queued.
    async with Client(found, writes_per_second=config.writes_per_second) as client, Client(found) as leases:
        cluster = Cluster(leases, clock, configuration.load_facts(config), config.linkerd_namespace)
        async with Controller(config, KubernetesStore(client, leases, config.namespace), clock, cluster=cluster) as controller:
            yield controller


async def _reload(controller: Controller, asked: asyncio.Event) -> None:
    log = structlog.get_logger()
    while True:
        await asked.wait()
        asked.clear()
        try:
            await controller.reload()
            log.info("reloaded")
        except ConfigError as error:
            log.error("reload failed; what was in force stays", error=str(error))


def _log_json() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
