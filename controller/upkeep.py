"""What happens without anybody asking: groups change, leases end, objects are deleted by others."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TypeVar

import structlog

from controller import admission, rendering
from controller.admission import RefusedError
from controller.fleet import Record
from controller.manifest import BUOYANT_GROUP_API, GROUP_API, ExternalGroup
from controller.model import ExternalWorkload, Key
from controller.registry import Registry
from controller.store import Change, ChangeType, Collection, Listing, Stored
from harness.errors import TemporaryError
from harness.values import IPAddress

log = structlog.get_logger()
T = TypeVar("T", bound=Stored)
Dial = Callable[[IPAddress, int], Awaitable[bool]]

SWEEP_SECONDS = 0.25
PROXY_PORT = 4143
DIAL_SECONDS = 2.0
_RETRY_SECONDS = 1.0
_WRITES, _DIALS = 20, 100


async def tcp_dial(address: IPAddress, port: int) -> bool:
    """Whether anything accepts a connection there."""
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            _, writer = await asyncio.open_connection(str(address), port)
    except OSError:  # also TimeoutError
        return False
    writer.transport.abort()
    return True


class Upkeep:
    def __init__(self, registry: Registry, dial: Dial) -> None:
        self._registry, self._fleet, self._dial = registry, registry.fleet, dial
        self._dialling: set[Key] = set()
        self._writes, self._dials = asyncio.Semaphore(_WRITES), asyncio.Semaphore(_DIALS)
        self._groups_known = {GROUP_API: asyncio.Event(), BUOYANT_GROUP_API: asyncio.Event()}
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Without end; `ready` once the store was read."""
        store, clock = self._registry.store, self._fleet.clock
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_groups(GROUP_API, store.groups))
            tasks.create_task(self._follow_groups(BUOYANT_GROUP_API, store.buoyant_groups))
            tasks.create_task(self._follow_workloads(store.workloads))
            await self.ready.wait()
            while True:
                await clock.sleep(SWEEP_SECONDS)
                for key in await self.sweep():
                    tasks.create_task(self._confirm(key))

    async def sweep(self) -> tuple[Key, ...]:
        """Acts on the leases that have ended; the workloads that are to be dialled first."""
        findings = self._fleet.leases.sweep(self._fleet.clock.now())
        for key in findings.silent:
            await self._report_silence(key)
        await self._all(self._settle(key) for key in {*findings.silent, *self._registry.unsettled})
        await self._all(self._expire(key) for key in findings.expired)
        doubtful = tuple(key for key in findings.doubtful if key not in self._dialling)
        self._dialling.update(doubtful)
        return doubtful

    async def _confirm(self, key: Key) -> None:
        record = self._fleet.records.get(key)
        try:
            if record is None:
                return
            async with self._dials:
                answers = await self._dial(record.workload.spec.workload_ips[0].ip, PROXY_PORT)
            if answers:
                self._fleet.leases.vouch(key, self._fleet.clock.now())
            else:
                self._fleet.leases.give_up(key)
                await self._report_silence(key)
                await self._settle(key)
        finally:
            self._dialling.discard(key)

    async def _report_silence(self, key: Key) -> None:
        record = self._fleet.records.get(key)
        if record is not None:
            await self._registry.warn(record.member.group_key, rendering.UNREACHABLE, f"{key.name} does not report any more")

    async def _settle(self, key: Key) -> None:
        record = self._fleet.records.get(key)
        if record is None:
            self._registry.unsettled.discard(key)
            return
        with contextlib.suppress(TemporaryError):  # it stays unsettled, and the next sweep tries again
            async with self._fleet.lock(record.member.group_key, record.member.instance):
                await self._registry.settle(record)

    async def _expire(self, key: Key) -> None:
        record = self._fleet.records.get(key)
        if record is not None:
            with contextlib.suppress(TemporaryError):
                await self._registry.remove(record)
                await self._registry.note(record.member.group_key, "Expired", f"{key.name} was silent for too long")

    async def _follow_groups(self, api: str, groups: Collection[ExternalGroup]) -> None:
        async def replace(listing: Listing[ExternalGroup]) -> None:
            for group in listing.items:
                self._fleet.set_group(group)
            gone = self._fleet.group_keys(api) - {group.key for group in listing.items}
            for key in gone:
                self._fleet.drop_group(api, key)
            self._groups_known[api].set()
            for key in gone | {group.key for group in listing.items}:
                await self._group_changed(key)

        async def apply(change: Change[ExternalGroup]) -> None:
            if change.type is ChangeType.DELETED:
                self._fleet.drop_group(api, change.item.key)
            else:
                self._fleet.set_group(change.item)
            await self._group_changed(change.item.key)

        await self._follow(groups, replace, apply)

    async def _follow_workloads(self, workloads: Collection[ExternalWorkload]) -> None:
        async def replace(listing: Listing[ExternalWorkload]) -> None:
            for workload in listing.items:
                self._fleet.observe(workload)
            for key in self._fleet.workload_keys() - {workload.metadata.key for workload in listing.items}:
                self._fleet.forget(key, int(listing.resource_version))
            orphans = [record for record in self._fleet.records.values() if self._fleet.group(record.member.group_key) is None]
            await self._all(self._registry.remove(record) for record in orphans)
            self.ready.set()

        async def apply(change: Change[ExternalWorkload]) -> None:
            metadata = change.item.metadata
            if change.type is not ChangeType.DELETED:
                self._fleet.observe(change.item)
                return
            self._fleet.forget(metadata.key, int(metadata.resource_version))
            self._fleet.forget_uid(metadata.uid)

        for known in self._groups_known.values():
            await known.wait()
        await self._follow(workloads, replace, apply)

    async def _follow(
        self,
        collection: Collection[T],
        replace: Callable[[Listing[T]], Awaitable[None]],
        apply: Callable[[Change[T]], Awaitable[None]],
    ) -> None:
        while True:
            try:
                listing = await collection.list()
                await replace(listing)
                async for change in collection.watch(listing.resource_version):
                    await apply(change)
            except TemporaryError as error:
                log.warning("store lost", error=error.message)
            await self._fleet.clock.sleep(_RETRY_SECONDS)

    async def _group_changed(self, key: Key) -> None:
        """No garbage collector is relied upon: the workloads of a deleted group are deleted here."""
        group = self._fleet.group(key)
        if group is None:
            await self._all(self._registry.remove(record) for record in self._fleet.members(key))
        else:
            await self._all(self._follow_group(group, record) for record in self._fleet.members(key))
        self._fleet.wake(key)

    async def _follow_group(self, group: ExternalGroup, record: Record) -> None:
        member, times = record.member, self._fleet.times_of(group.key)
        async with self._fleet.lock(member.group_key, member.instance):
            if self._fleet.records.get(record.key) is not record or not record.workload.metadata.uid:
                return
            self._fleet.leases.retime(record.key, times.lease, times.expiry)
            try:
                admission.check_identity(group, member.identity, self._registry.trust_domain)
                admission.check_addresses(group, member.addresses)
                wanted = rendering.workload(group, member, self._fleet.facts.cluster_domain)
                spec = dataclasses.replace(wanted.spec, mesh_tls=record.workload.spec.mesh_tls)
                await self._registry.rewrite(record, dataclasses.replace(wanted, spec=spec))
            except RefusedError as refusal:
                await self._registry.remove(record)
                await self._registry.warn(group.key, "NotAdmitted", refusal.message)

    async def _all(self, work: Iterable[Coroutine[None, None, None]]) -> None:
        async def bounded(task: Coroutine[None, None, None]) -> None:
            async with self._writes:
                await task

        outcomes = await asyncio.gather(*(bounded(task) for task in work), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
