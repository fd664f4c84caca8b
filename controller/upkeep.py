"""What happens without anybody asking: leases end, objects are deleted by others, leaders come and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator

import structlog

from controller import rendering
from controller.following import follow
from controller.groups import Groups
from controller.model import ExternalWorkload, Key
from controller.refusals import Refusals
from controller.registry import Registry
from controller.store import Change, ChangeType, Listing, RefusedCallError
from harness.errors import TemporaryError
from harness.values import IPAddress

log = structlog.get_logger()
Dial = Callable[[IPAddress, int], Awaitable[bool]]

SWEEP_SECONDS = 0.25
DIAL_SECONDS = 2.0
LEAD_SECONDS = 1.0
"""A group's status is written so often at most."""
_STRAYS_SECONDS = 60.0
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
        self._replicas = registry.replicas
        self._groups = Groups(registry, self._all)
        self._dialling: set[Key] = set()
        self._writes, self._dials = asyncio.Semaphore(_WRITES), asyncio.Semaphore(_DIALS)
        self._cut_off = False
        self._refusals: Refusals[Key] = Refusals()
        self.ready = asyncio.Event()
        self._replicas.changed = self._fleet.rehold
        self._replicas.share = lambda: self._fleet.leases.share(self._fleet.clock.now())

    async def run(self) -> None:
        """Without end; `ready` once the store was read."""
        store, clock = self._registry.store, self._fleet.clock
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._replicas.run())
            for api, known in self._groups.known.items():
                tasks.create_task(self._groups.follow(api))
                await known.wait()
            await self._replicas.known.wait()
            tasks.create_task(follow(store.workloads, clock, self._replace, self._apply))
            await self.ready.wait()
            tasks.create_task(self._lead())
            while True:
                await clock.sleep(SWEEP_SECONDS)
                for key in await self.sweep():
                    tasks.create_task(self._confirm(key))

    async def sweep(self) -> tuple[Key, ...]:
        """Acts on the leases that have ended; the workloads that are to be dialled first.

        While the store is lost nothing follows from silence: machines may have turned to other replicas. Once it is back,
        everybody has another lease.
        """
        if not self._replicas.connected:
            self._cut_off = True
            return ()
        if self._cut_off:
            self._cut_off = False
            self._fleet.leases.reprieve(self._fleet.clock.now())
        findings = self._fleet.leases.sweep(self._fleet.clock.now(), self._replicas.others())
        for key in findings.silent:
            await self._report_silence(key)
        now = self._fleet.clock.now()
        unsettled = {*findings.silent, *self._registry.unsettled}
        await self._all(self._settle(key) for key in unsettled if self._refusals.is_due(key, now))
        await self._all(self._expire(key) for key in findings.expired if self._refusals.is_due(key, now))
        doubtful = tuple(key for key in findings.doubtful if key not in self._dialling)
        self._dialling.update(doubtful)
        return doubtful

    async def _confirm(self, key: Key) -> None:
        record = self._fleet.records.get(key)
        try:
            if record is None:
                return
            async with self._dials:
                answers = await self._dial(record.workload.spec.workload_ips[0].ip, record.workload.inbound_port)
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
            self._refusals.taken(key)
            return
        with self._refusable(key):  # it stays unsettled, and the next sweep tries again
            async with self._fleet.lock(record.member.group_key, record.member.instance):
                await self._registry.settle(record)

    async def _expire(self, key: Key) -> None:
        record = self._fleet.records.get(key)
        if record is not None:
            with self._refusable(key):
                await self._registry.remove(record)
                await self._registry.note(record.member.group_key, "Expired", f"{key.name} was silent for too long")

    @contextlib.contextmanager
    def _refusable(self, key: Key) -> Iterator[None]:
        """A write that may fail: the next sweep tries again, or a later one where it was refused for good."""
        try:
            yield
            self._refusals.taken(key)
        except RefusedCallError:
            self._refusals.refused(key, self._fleet.clock.now())
        except TemporaryError:
            pass

    async def _lead(self) -> None:
        """What the leader does, whoever that is."""
        led, strays, checked = False, frozenset[Key](), float("-inf")
        while True:
            now = self._fleet.clock.now()
            if self._replicas.leads:
                with contextlib.suppress(TemporaryError):
                    if not led:
                        await self._groups.take_over()
                    await self._groups.write_statuses()
                    led = True
                if now - checked >= _STRAYS_SECONDS:
                    # Twice missing: a new machine's lease may be seen before its workload.
                    missing = self._replicas.owned() - self._fleet.workload_keys()
                    for key in missing & strays:
                        self._replicas.release(key)
                    strays, checked = missing, now
                    with contextlib.suppress(TemporaryError):
                        await self._replicas.collect()
            else:
                led = False
            await self._fleet.clock.sleep(LEAD_SECONDS)

    async def _replace(self, listing: Listing[ExternalWorkload]) -> None:
        for workload in listing.items:
            self._fleet.observe(workload)
        for key in self._fleet.workload_keys() - {workload.metadata.key for workload in listing.items}:
            self._fleet.forget(key, int(listing.resource_version))
        if self._replicas.leads:
            await self._all(self._registry.remove(record) for record in self._groups.orphans())
        self.ready.set()

    async def _apply(self, change: Change[ExternalWorkload]) -> None:
        metadata = change.item.metadata
        if change.type is ChangeType.DELETED:
            self._fleet.forget(metadata.key, int(metadata.resource_version))
            self._fleet.forget_uid(metadata.uid)
            return
        record = self._fleet.observe(change.item)
        if change.type is ChangeType.ADDED and record is not None:
            refusal = self._registry.arrivals.shown(record, self._replicas.leads)
            if refusal is not None:
                await self._registry.remove(record)
                await self._registry.warn(record.member.group_key, refusal.reason, refusal.message)

    async def _all(self, work: Iterable[Coroutine[None, None, None]]) -> None:
        async def bounded(task: Coroutine[None, None, None]) -> None:
            async with self._writes:
                await task

        outcomes = await asyncio.gather(*(bounded(task) for task in work), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
