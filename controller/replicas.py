"""Which replica judges which machine, and which one leads.

In the store: one Lease of each replica, renewed; one for the leader; one of each machine, held by the replica that hears it and
written only when that changes. How long a machine has been silent is known to its replica alone, in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping

import structlog

from controller.following import follow
from controller.leases import Share
from controller.model import Key, Lease, Metadata
from controller.owners import MACHINE, Owners, lease_name, version_of
from controller.store import Change, ChangeType, Collection, ConflictError, Listing, NotFoundError
from harness.clock import Clock
from harness.errors import TemporaryError

log = structlog.get_logger()

LEASE_SECONDS = 8.0
"""A replica that has not renewed for so long is taken for dead: a failover takes as long, and a renewal interval."""
RENEW_SECONDS = 2.0
READER_SECONDS = 30.0
"""How far the stamp on a replica's Lease may be from a reader's time. The lease itself lasts 8 s. Replicas watch one another
renew, each on its own clock. A reader looks only once, so it has to compare two clocks: the rest is for their difference."""
_LEADER, REPLICA, _USED = "leader", "replica.", "used."
_SHARE = "workload.meshexp.io/share"
_SHARES = re.compile("([0-9]{1,9}) ([0-9]{1,9}) ([0-9]{1,9})")
_PUT_ATTEMPTS = 4
_CLOCKS_SECONDS = 3600.0
"""Replicas' clocks are not further apart: what is used is kept for so long after its time, so that
a replica with a late clock does not accept it again."""


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
        self._owners = Owners(leases, clock, name, namespace)
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
        holder = self._owners.holder(machine)
        return holder == self.name or (self.leads and holder not in self._alive)

    def annotation(self, machine: Key, name: str) -> str:
        """An annotation of its Lease, empty where there is none."""
        return self._owners.annotation(machine, name)

    def claim(self, machine: Key, said: Mapping[str, str] = {}) -> None:
        """It speaks to this replica; `said`: annotations for its Lease."""
        if self._owners.claim(machine, said):
            self.changed(machine)

    def say(self, machine: Key, said: Mapping[str, str]) -> None:
        """Annotations for its Lease, which stays with the replica that hears it."""
        self._owners.say(machine, said)

    async def put(self, machine: Key, name: str, text: str, may: Callable[[str], bool]) -> bool:
        """Writes an annotation of its Lease at once, where `may` accepts the one of before. False when it does not: another
        replica was faster. Raises TemporaryError.
        """
        for _ in range(_PUT_ATTEMPTS):
            lease = self._owners.stored(machine)
            try:
                if lease is None:
                    metadata = Metadata(lease_name(machine), self._namespace, annotations={name: text})
                    made = Lease(metadata, self.name, self._clock.wall(), LEASE_SECONDS)
                    self._owners.take(await self._leases.create(made))
                    return True
                if not may(lease.metadata.annotations.get(name, "")):
                    return False
                metadata = dataclasses.replace(lease.metadata, annotations={**lease.metadata.annotations, name: text})
                self._owners.take(await self._leases.replace(dataclasses.replace(lease, metadata=metadata)))
                return True
            except NotFoundError:
                if lease is not None:
                    self._owners.forget(lease)
            except ConflictError:
                with contextlib.suppress(NotFoundError):
                    self._take(await self._leases.get(Key(self._namespace, lease_name(machine))))
        raise TemporaryError(f"the Lease of {machine} keeps being changed by others")

    def release(self, machine: Key) -> None:
        """It is no more."""
        self._owners.release(machine)

    def owned(self) -> frozenset[Key]:
        return self._owners.known()

    def leases(self) -> tuple[Lease, ...]:
        """All that the store has, as far as this replica has seen."""
        return *self._stored.values(), *self._owners.leases()

    def others(self) -> Share:
        """What the other living replicas hear."""
        leases = (self._stored.get(REPLICA + name) for name in self._alive - {self.name})
        return sum((_share(lease) for lease in leases if lease is not None), Share())

    async def use(self, ticket: str, by: str, expires: float) -> bool:
        """Whether this one-time thing is `by`'s: the first to ask has it, at whichever replica. Raises TemporaryError."""
        key, now = Key(self._namespace, f"{_USED}{ticket}"), self._clock.wall()
        try:
            await self._leases.create(Lease(Metadata(key.name, key.namespace), by, now, expires - now))
        except ConflictError:
            return (await self._leases.get(key)).holder == by
        return True

    async def user(self, ticket: str) -> str | None:
        """Who has used it. Raises TemporaryError."""
        try:
            return (await self._leases.get(Key(self._namespace, f"{_USED}{ticket}"))).holder
        except NotFoundError:
            return None

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
            await self.known.wait()
            tasks.create_task(self._owners.write())
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
            await self._leases.delete(Key(self._namespace, REPLICA + self.name))

    async def _renew(self) -> None:
        try:
            share = self.share()
            # Counted from before the request: the others may see the renewal long before its answer is here.
            began = self._clock.now()
            await self._put(REPLICA + self.name, {_SHARE: f"{share.size} {share.held} {share.missing}"})
            self._renewed = began
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
        began = self._clock.now()
        with contextlib.suppress(ConflictError, NotFoundError):  # another was faster
            await self._put(_LEADER)
            self._led = began
            if not led and self.leads:
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
            if name.startswith(REPLICA) and now - self._seen[name] < LEASE_SECONDS
        }

    # what the store says

    async def _replace(self, listing: Listing[Lease]) -> None:
        names = {lease.metadata.name for lease in listing.items}
        for name in self._stored.keys() - names:
            del self._stored[name]
        self._owners.keep(names)
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
        if name.startswith(MACHINE):
            self._owners.forget(change.item)
        elif (known := self._stored.get(name)) is not None and version_of(known) <= version_of(change.item):
            del self._stored[name]

    def _take(self, lease: Lease) -> None:
        name = lease.metadata.name
        if name.startswith(MACHINE):
            machine = self._owners.take(lease)
            if machine is not None:
                self.changed(machine)
            return
        known = self._stored.get(name)
        if known is None or version_of(known) < version_of(lease):
            self._stored[name], self._seen[name] = lease, self._clock.now()


def is_alive(lease: Lease, wall: float) -> bool:
    """Of a replica's Lease, by what it says itself. `wall`: the API server's clock, which a reader's own need not follow.

    A stamp far in the future tells as little as an old one: with its clock an hour ahead, a replica would seem alive for an hour
    after its end.
    """
    return abs(wall - lease.renewed) < READER_SECONDS


def _share(lease: Lease) -> Share:
    found = _SHARES.fullmatch(lease.metadata.annotations.get(_SHARE, ""))
    return Share(*map(int, found.groups())) if found else Share()
