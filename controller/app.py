"""The controller as one object: `async with Controller(config, store, clock)`. It listens, and keeps the store right."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

import structlog
from aiohttp import web

from controller import config as configuration
from controller import tls
from controller.config import ControllerConfig
from controller.connection import Connection, Room
from controller.credentials import Credentials
from controller.dial_back import DialBack
from controller.door import Door
from controller.fleet import Fleet
from controller.fleet_page import FleetPage
from controller.folder import Folder
from controller.health import Health
from controller.kubernetes.cluster import Cluster
from controller.metrics import Metrics
from controller.own_networks import OwnNetworks
from controller.registry import Registry
from controller.replicas import Replicas
from controller.server import Api
from controller.store import Gap, Store
from controller.upkeep import Dial, Upkeep, tcp_dial
from harness.clock import Clock
from harness.errors import ConfigError, Fault, HarnessError
from harness.messages import ClusterFacts
from harness.system import listening
from harness.values import HostPort

log = structlog.get_logger()
_FOLDER_SECONDS = 0.5
_STOP_SECONDS = 2.0
_HEALTH_CONNECTIONS = 64
_BACKLOG = 1024
"""A fleet that lost its controller connects again at once."""


class Controller:
    """`address`, `health_address` and `fleet_address` are where it really listens, also when the configured port was 0.

    `cluster`: where facts come from besides the configuration.
    """

    def __init__(
        self, config: ControllerConfig, store: Store, clock: Clock, dial: Dial = tcp_dial, cluster: Cluster | None = None
    ) -> None:
        self.config, self.store = config, store
        self.address, self.health_address, self.fleet_address = config.listen, config.health_listen, config.fleet_listen
        self.replicas = Replicas(store.leases, clock, config.replica or socket.gethostname(), config.namespace)
        self.fleet = Fleet(clock, config.times, configuration.load_facts(config), self.replicas.holds)
        self.fleet.short_identities = config.admit_short_identities
        self._registry = Registry(store, self.fleet, config.trust_domain, self.replicas)
        self._registry.machine_ports = config.machine_ports
        self._upkeep = Upkeep(self._registry, dial)
        self._credentials = Credentials(config, clock, lambda: self.fleet.facts)
        self._metrics = Metrics(self.fleet, self.replicas, lambda: self._credentials.validity, store, self._gaps)
        self._health = Health(self._upkeep, self._metrics, self._gaps)
        self._folder = Folder(config.groups, store) if config.groups else None
        self._cluster = cluster
        self._stack = contextlib.AsyncExitStack()
        self._work: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when calls are taken. Raises ConfigError, or UnavailableError when it cannot listen."""
        tls.shrink_buffers()
        if self._folder is not None:
            await self._folder.apply()
        await self._stack.__aenter__()
        try:
            self._work = asyncio.create_task(_single(self._run()))
            self._stack.push_async_callback(self.replicas.resign)
            self._stack.push_async_callback(self._cancel, self._work)
            health = web.Server(self._health, access_log=None)
            self.health_address = await self._listen("health_listen", health, self.config.health_listen, None)
            ready = asyncio.create_task(self._ready())
            self._stack.push_async_callback(self._cancel, ready)
            await asyncio.wait((ready, self._work), return_when=asyncio.FIRST_COMPLETED)
            if self._work.done():
                self._work.result()
            if self.config.fleet_listen is not None:
                page = web.Server(FleetPage(self.fleet, self.replicas), access_log=None)
                self.fleet_address = await self._listen("fleet_listen", page, self.config.fleet_listen, None)
            dial_back = DialBack(self._registry, own=self._own_networks if self._cluster is not None else None)
            api = Api(self._registry, self._metrics, self.config.hold, lambda: self._credentials.anchors, dial_back)
            self.address = await self._listen("listen", web.Server(api), self.config.listen, ready.result())
            self._health.listening = True
        except BaseException:
            await self._stack.aclose()
            raise
        log.info(
            "controller ready", address=str(self.address), health=str(self.health_address), trust_domain=self.config.trust_domain
        )

    async def stop(self) -> None:
        self._health.listening = False
        self.fleet.wake()
        await self._stack.aclose()

    async def wait(self) -> None:
        """Returns never; raises what stopped the controller."""
        if self._work is not None:
            await asyncio.shield(self._work)

    async def reload(self) -> None:
        """Reads certificate, anchors, facts and groups again. Raises ConfigError; what is wrong stays as it was."""
        if self._cluster is None:
            facts = configuration.load_facts(self.config)
            if facts.cluster_domain != self.fleet.facts.cluster_domain:
                raise ConfigError((Fault("cluster_domain", "cannot change while the controller runs"),), self.config.facts)
            self._credentials.reload(facts.trust_anchors_pem)
            self._use_facts(facts)
        else:
            self._credentials.reload(self.fleet.facts.trust_anchors_pem)
        if self._folder is not None:
            await self._folder.apply()

    async def __aenter__(self) -> Controller:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def _gaps(self) -> tuple[Gap, ...]:
        return (*self.store.gaps(), *(self._cluster.gaps() if self._cluster is not None else ()))

    def _own_networks(self) -> OwnNetworks:
        return self._cluster.own if self._cluster is not None else OwnNetworks()

    async def _ready(self) -> ssl.SSLContext:
        if self._cluster is not None:
            await self._cluster.known.wait()
        context = await self._credentials.context()
        await self._upkeep.ready.wait()
        return context

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._cluster is not None:
                self._cluster.changed = self._follow_facts
                tasks.create_task(self._cluster.run())
                await self._cluster.known.wait()
            tasks.create_task(self._upkeep.run())
            tasks.create_task(self._renew())
            if self._folder is not None:
                tasks.create_task(self._watch(self._folder))

    async def _renew(self) -> None:
        while not self._health.listening:
            await asyncio.sleep(_FOLDER_SECONDS)
        await self._credentials.keep()

    def _use_facts(self, facts: ClusterFacts) -> None:
        if facts != self.fleet.facts:
            self.fleet.facts = facts
            self.fleet.wake()

    def _follow_facts(self, facts: ClusterFacts) -> None:
        try:
            self._credentials.reload(facts.trust_anchors_pem)
        except ConfigError as error:
            log.error("trust anchors not read; the old ones stay in force", error=str(error))
            facts = dataclasses.replace(facts, trust_anchors_pem=self.fleet.facts.trust_anchors_pem)
        self._use_facts(facts)
        log.info("cluster facts", nodes=len(facts.pod_routes), service_cidrs=[str(cidr) for cidr in facts.service_cidrs])

    async def _watch(self, folder: Folder) -> None:
        while True:
            await asyncio.sleep(_FOLDER_SECONDS)
            try:
                if await folder.follow():
                    log.info("groups read", folder=self.config.groups)
            except ConfigError as error:
                log.error("groups not read; the old ones stay in force", error=str(error))

    async def _listen(self, key: str, server: web.Server, where: HostPort, context: ssl.SSLContext | None) -> HostPort:
        """`key`: where the configuration has `where`."""
        loop = asyncio.get_running_loop()
        room = Room(_HEALTH_CONNECTIONS)
        factory = (lambda: Connection(server, 0.0, room)) if key == "health_listen" else server
        sockets = await listening.listen(where, key, _BACKLOG)
        self._stack.push_async_callback(server.shutdown, _STOP_SECONDS)
        for one in sockets:
            if context is not None:
                door = Door(lambda: Connection(server, self.config.hold), context)
                self._stack.callback(one.close)
                self._stack.push_async_callback(self._cancel, asyncio.create_task(door.serve(one)))
                continue
            listener = await loop.create_server(factory, sock=one, backlog=_BACKLOG)
            self._stack.callback(listener.close)
        return dataclasses.replace(where, port=sockets[0].getsockname()[1])

    @staticmethod
    async def _cancel(task: asyncio.Task[Any]) -> None:
        task.cancel()
        await asyncio.wait((task,))


async def _single(work: Coroutine[None, None, None]) -> None:
    """An error that was meant to end the controller, out of the groups that task groups wrap it in."""
    try:
        await work
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, HarnessError):
            raise error from None
        raise
