"""Which replica judges which machine, and which one leads.

In the store: one Lease of each replica, renewed; one for the leader; one of each machine, held by the replica that hears it and
written only when that changes. How long a machine has been silent is known to its replica alone, in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable

import structlog

from controller.following import RETRY_SECONDS, follow
from controller.leases import Share
from controller.model import Key, Lease, Metadata
from controller.store import Change, ChangeType, Collection, ConflictError, Listing, NotFoundError
from harness.clock import Clock
from harness.errors import TemporaryError

log = structlog.get_logger()

LEASE_SECONDS = 8.0
"""A replica that has not renewed for so long is taken for dead: a failover takes as long, and a renewal interval."""
RENEW_SECONDS = 2.0
_WRITES = 8
_LEADER, _REPLICA, _MACHINE, _USED = "leader", "replica.", "machine.", "used."
_SHARE = "workload.meshexp.io/share"
_CLOCKS_SECONDS = 3600.0
"""Replicas' clocks are not further apart: what is used is kept for so long after its time, lest a late clock takes it again."""


class Replicas:
    """`changed` is called with the machine whose replica has changed, or None when that may be so for any.

    `share`: what this replica hears; it stands on its Lease, for the others.
    """

    def __init__(self, leases: Collection[Lease], clock: Clock, name: str, namespace: str) -> None:
        self.name = name
        self.known = asyncio.Event()
        self.changed: Callable[[Key | None], None] = lambda key: None
        self.share: Callable[[], Share] = Share
        self._leases, self._clock, self._namespace = leases, clock, namespace
        self._stored: dict[str, Lease] = {}
        self._seen: dict[str, float] = {}
        self._owners: dict[Key, Lease] = {}
        self._wanted: dict[Key, bool] = {}
        self._want = asyncio.Event()
        self._renewed = self._led = float("-inf")
        self._alive: frozenset[str] = frozenset()

    @property
    def leads(self) -> bool:
        return self._clock.now() - self._led < LEASE_SECONDS

    @property
    def connected(self) -> bool:
        """Whether the store takes our writes."""
        return self._clock.now() - self._renewed < LEASE_SECONDS

    def holds(self, machine: Key) -> bool:
        """Whether its silence is this replica's to judge: the leader looks after those of replicas that are gone."""
        holder = self.holder(machine)
        return holder == self.name or (self.leads and holder not in self._alive)

    def holder(self, machine: Key) -> str:
        if self._wanted.get(machine):
            return self.name
        lease = self._owners.get(machine)
        return lease.holder if lease else ""

    def claim(self, machine: Key) -> None:
        """It speaks to this replica."""
        if self.holder(machine) != self.name or self._wanted.get(machine) is False:
            self._wish(machine, True)
            self.changed(machine)

    def release(self, machine: Key) -> None:
        """It is no more."""
        if machine in self._owners or self._wanted.get(machine):
            self._wish(machine, False)

    def owned(self) -> frozenset[Key]:
        return frozenset(self._owners)

    def others(self) -> Share:
        """What the other living replicas hear."""
        leases = (self._stored.get(_REPLICA + name) for name in self._alive - {self.name})
        return sum((_share(lease) for lease in leases if lease is not None), Share())

    async def use(self, ticket: str, by: str, expires: float) -> bool:
        """Whether this one-time thing is `by`'s: the first to ask has it, at whichever replica. Raises TemporaryError."""
        key, now = Key(self._namespace, f"{_USED}{ticket}"), self._clock.wall()
        try:
            await self._leases.create(Lease(Metadata(key.name, key.namespace), by, now, expires - now))
        except ConflictError:
            return (await self._leases.get(key)).holder == by
        return True

    async def collect(self) -> None:
        """Forgets who used what nobody can use any more. Raises TemporaryError."""
        latest = self._clock.wall() - _CLOCKS_SECONDS
        for name, lease in tuple(self._stored.items()):
            if name.startswith(_USED) and lease.renewed + lease.duration_seconds < latest:
                with contextlib.suppress(NotFoundError, ConflictError):
                    await self._leases.delete(lease.metadata.key, lease.metadata.uid)

    async def run(self) -> None:
        """Without end; `known` once the leases were read."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow(self._leases, self._clock, self._replace, self._apply))
            tasks.create_task(self._write())
            await self.known.wait()
            while True:
                await self._renew()
                await self._clock.sleep(RENEW_SECONDS)

    async def resign(self) -> None:
        """Tells the others at once; best effort."""
        self._led = float("-inf")
        with contextlib.suppress(TemporaryError, ConflictError, NotFoundError):
            # Read again: a renewal may have been cut off between its write and its answer.
            lease = await self._leases.get(Key(self._namespace, _LEADER))
            if lease.holder == self.name:
                await self._leases.replace(dataclasses.replace(lease, holder=""))
        with contextlib.suppress(TemporaryError, NotFoundError):
            await self._leases.delete(Key(self._namespace, _REPLICA + self.name))

    async def _renew(self) -> None:
        try:
            share = self.share()
            await self._put(_REPLICA + self.name, {_SHARE: f"{share.size} {share.held} {share.missing}"})
            self._renewed = self._clock.now()
            await self._elect()
        except (TemporaryError, NotFoundError, ConflictError) as error:
            log.warning("lease not renewed", error=error.message)
        alive = frozenset(self._living())
        if alive != self._alive:
            self._alive = alive
            log.info("replicas", alive=sorted(alive), leads=self.leads)
            self.changed(None)

    async def _elect(self) -> None:
        lease, led = self._stored.get(_LEADER), self.leads
        fresh = lease is not None and self._clock.now() - self._seen[_LEADER] < LEASE_SECONDS
        if lease is not None and lease.holder not in ("", self.name) and fresh:
            return
        with contextlib.suppress(ConflictError, NotFoundError):  # another was faster
            await self._put(_LEADER)
            self._led = self._clock.now()
            if not led:
                log.info("leading", replica=self.name)
                self.changed(None)

    async def _put(self, name: str, annotations: dict[str, str] | None = None) -> None:
        lease, now = self._stored.get(name), self._clock.wall()
        metadata = dataclasses.replace(
            lease.metadata if lease else Metadata(name, self._namespace), annotations=annotations or {}
        )
        if lease is None:
            try:
                self._take(await self._leases.create(Lease(metadata, self.name, now, LEASE_SECONDS)))
            except ConflictError:
                self._take(await self._leases.get(metadata.key))
                raise
            return
        transitions = lease.transitions + (lease.holder != self.name)
        renewed = Lease(metadata, self.name, now, LEASE_SECONDS, transitions)
        try:
            self._take(await self._leases.replace(renewed))
        except NotFoundError:
            self._stored.pop(name, None)
            raise
        except ConflictError:
            self._take(await self._leases.get(lease.metadata.key))
            raise

    def _living(self) -> set[str]:
        """By what this replica has seen, not by the others' clocks."""
        now = self._clock.now()
        return {self.name} | {
            lease.holder
            for name, lease in self._stored.items()
            if name.startswith(_REPLICA) and now - self._seen[name] < LEASE_SECONDS
        }

    # what the store says

    async def _replace(self, listing: Listing[Lease]) -> None:
        names = {lease.metadata.name for lease in listing.items}
        for name in self._stored.keys() - names:
            del self._stored[name]
        for machine in self._owners.keys() - {_machine(name) for name in names}:
            del self._owners[machine]
        for lease in listing.items:
            self._take(lease)
        self._alive = frozenset(self._living())
        self.known.set()
        self.changed(None)

    async def _apply(self, change: Change[Lease]) -> None:
        name = change.item.metadata.name
        if change.type is not ChangeType.DELETED:
            self._take(change.item)
            return
        known = self._stored.get(name) or self._owners.get(_machine(name))
        if known is not None and _version(known) <= _version(change.item):
            self._stored.pop(name, None)
            self._owners.pop(_machine(name), None)

    def _take(self, lease: Lease) -> None:
        name = lease.metadata.name
        if name.startswith(_MACHINE):
            machine = _machine(name)
            known = self._owners.get(machine)
            if known is None or _version(known) < _version(lease):
                self._owners[machine] = lease
                if known is None or known.holder != lease.holder:
                    self.changed(machine)
            return
        known = self._stored.get(name)
        if known is None or _version(known) < _version(lease):
            self._stored[name], self._seen[name] = lease, self._clock.now()

    # what this replica wants it to say

    def _wish(self, machine: Key, held: bool) -> None:
        self._wanted[machine] = held
        self._want.set()

    async def _write(self) -> None:
        await self.known.wait()
        while True:
            await self._want.wait()
            self._want.clear()
            slots = asyncio.Semaphore(_WRITES)
            done = await asyncio.gather(*(self._fulfil(machine, slots) for machine in tuple(self._wanted)))
            if not all(done):
                await self._clock.sleep(RETRY_SECONDS)
                self._want.set()

    async def _fulfil(self, machine: Key, slots: asyncio.Semaphore) -> bool:
        async with slots:
            held = self._wanted.get(machine)
            try:
                if held:
                    await self._own(machine)
                else:
                    with contextlib.suppress(NotFoundError):
                        await self._leases.delete(Key(self._namespace, _lease_name(machine)))
                    self._owners.pop(machine, None)
            except (TemporaryError, ConflictError, NotFoundError) as error:
                log.warning("owner not written", machine=str(machine), error=error.message)
                return False
            if self._wanted.get(machine) is not held:
                return False
            del self._wanted[machine]
            return True

    async def _own(self, machine: Key) -> None:
        lease, now = self._owners.get(machine), self._clock.wall()
        if lease is None:
            metadata = Metadata(_lease_name(machine), self._namespace)
            try:
                self._take(await self._leases.create(Lease(metadata, self.name, now, LEASE_SECONDS)))
                return
            except ConflictError:
                lease = await self._leases.get(metadata.key)
        transitions = lease.transitions + 1
        try:
            self._take(
                await self._leases.replace(dataclasses.replace(lease, holder=self.name, renewed=now, transitions=transitions))
            )
        except NotFoundError:
            self._owners.pop(machine, None)
            raise
        except ConflictError:
            self._take(await self._leases.get(lease.metadata.key))
            raise


def _lease_name(machine: Key) -> str:
    return f"{_MACHINE}{machine.namespace}.{machine.name}"


def _machine(lease_name: str) -> Key:
    namespace, _, name = lease_name.removeprefix(_MACHINE).partition(".")
    return Key(namespace, name)


def _share(lease: Lease) -> Share:
    numbers = lease.metadata.annotations.get(_SHARE, "").split()
    return Share(*map(int, numbers)) if len(numbers) == 3 and all(n.isdigit() for n in numbers) else Share()


def _version(lease: Lease) -> int:
    return int(lease.metadata.resource_version or 0)
