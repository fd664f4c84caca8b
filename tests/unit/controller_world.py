"""A controller without its server, on the embedded store and a clock that stands still."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from controller import address_proof
from controller.admission import RefusedError
from controller.embedded_store import EmbeddedCollection, EmbeddedStore
from controller.fleet import Fleet
from controller.joins import Joins
from controller.manifest import ExternalGroup
from controller.model import ExternalWorkload, Key
from controller.own_networks import OwnNetworks
from controller.registry import Caller, Registry
from controller.rendering import Times
from controller.replicas import Replicas
from controller.upkeep import Upkeep
from harness.errors import TemporaryError
from harness.messages import ClusterFacts, Reason, Registration, RegistrationRequest, StateReport
from harness.values import IPAddress, SpiffeId, parse_address
from tests.controller_support import TRUST_DOMAIN, StandingClock, group, settle

FACE = SpiffeId(TRUST_DOMAIN, "/faces/face")


class Failing(EmbeddedCollection[ExternalWorkload]):
    """A store of workloads whose writes fail while it is down."""

    down = False
    writes = 0

    async def create(self, item: ExternalWorkload) -> ExternalWorkload:
        self._check()
        return await super().create(item)

    async def replace(self, item: ExternalWorkload) -> ExternalWorkload:
        self._check()
        return await super().replace(item)

    async def patch_status(self, item: ExternalWorkload) -> ExternalWorkload:
        self._check()
        return await super().patch_status(item)

    def _check(self) -> None:
        self.writes += 1
        if self.down:
            raise TemporaryError("the store is down")


class World:
    def __init__(self, store: EmbeddedStore | None = None, name: str = "one", clock: StandingClock | None = None) -> None:
        self.clock = clock or StandingClock()
        self.store = store or EmbeddedStore(self.clock)
        self.workloads = Failing(iter(range(1000, 100_000)), self.clock)
        self.store.workloads = self.workloads if store is None else store.workloads
        self.replicas = Replicas(self.store.leases, self.clock, name, "meshexp")
        self.fleet = Fleet(self.clock, Times(lease=30, expiry=900), ClusterFacts(), self.replicas.holds)
        self.registry = Registry(self.store, self.fleet, TRUST_DOMAIN, self.replicas)
        self.own: OwnNetworks | None = None
        self.joins = Joins(self.registry, lambda: self.own)
        self.answering: set[IPAddress] = set()
        self.proxies: dict[IPAddress, int] = {}
        self.upkeep = Upkeep(self.registry, self._dial)

    async def _dial(self, address: IPAddress, port: int) -> bool:
        return address in self.answering and port == self.proxies.get(address, 4143)

    async def join(
        self, instance: str = "one", ip: str = "192.0.2.1", identity: SpiffeId = FACE, source: str = "", **request: Any
    ) -> Registration:
        fields = {"group": "face", "namespace": "faces", "hostname": "face-1", **request}
        message = RegistrationRequest(instance_id=instance, addresses=(parse_address(ip),), **fields)
        return (await self.joins.register(identity, message, address_proof.source_of(source)))[0]

    async def say(
        self, made: Registration, sequence: int, ready: bool = True, reason: Reason = Reason.READY, mark: str = ""
    ) -> None:
        report = StateReport(sequence, ready, reason)
        await self.registry.report(Caller(made.identity, made.secret, mark), Key(made.namespace, made.name), report)

    async def workload(self, made: Registration) -> ExternalWorkload:
        return await self.store.workloads.get(Key(made.namespace, made.name))

    async def names(self) -> set[str]:
        return {item.metadata.name for item in (await self.store.workloads.list()).items}

    async def edit(self, **spec: Any) -> ExternalGroup:
        old = await self.store.buoyant_groups.get(Key("faces", "face"))
        new = await self.store.buoyant_groups.replace(dataclasses.replace(group(**spec), metadata=old.metadata))
        await settle()
        return new


@contextlib.asynccontextmanager
async def world(store: EmbeddedStore | None = None, **spec: Any) -> AsyncIterator[World]:
    made = World(store)
    if store is None:
        await made.store.buoyant_groups.create(group(**spec))
    task = asyncio.create_task(made.upkeep.run())
    await made.upkeep.ready.wait()
    try:
        async with asyncio.timeout(60):
            yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def run(body: Callable[[World], Awaitable[None]], **spec: Any) -> None:
    async def main() -> None:
        async with world(**spec) as made:
            await body(made)

    asyncio.run(main())


@contextlib.contextmanager
def refused(code: str) -> Any:
    with pytest.raises(RefusedError) as caught:
        yield
    assert caught.value.code == code, caught.value.message
