"""Which replica hears which machine: a Lease of each machine, written only when that changes, or what it says of its software."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Mapping

import structlog

from controller.following import BACKOFF
from controller.model import Key, Lease, Metadata
from controller.refusals import Refusals
from controller.store import Collection, ConflictError, NotFoundError, RefusedCallError
from harness.clock import Clock
from harness.errors import TemporaryError

log = structlog.get_logger()
MACHINE = "machine."
VERSIONS = "workload.meshexp.io/versions"
_WRITES = 8
_SECONDS = 8.0
"""A machine's Lease does not end by time; Kubernetes wants a number."""


class Owners:
    """`name`: this replica's."""

    def __init__(self, leases: Collection[Lease], clock: Clock, name: str, namespace: str) -> None:
        self._leases, self._clock, self._name, self._namespace = leases, clock, name, namespace
        self._stored: dict[Key, Lease] = {}
        self._wanted: dict[Key, bool | None] = {}
        """Whether a Lease is to be this replica's, or to be deleted; None: it stays with the replica that has it."""
        self._said: dict[Key, dict[str, str]] = {}
        self._want = asyncio.Event()
        self._refusals: Refusals[Key] = Refusals()

    def holder(self, machine: Key) -> str:
        """As far as this replica knows, and wants."""
        if self._wanted.get(machine):
            return self._name
        lease = self._stored.get(machine)
        return lease.holder if lease else ""

    def known(self) -> frozenset[Key]:
        return frozenset(self._stored)

    def leases(self) -> tuple[Lease, ...]:
        return tuple(self._stored.values())

    # what this replica wants the store to say

    def annotation(self, machine: Key, name: str) -> str:
        """What this replica knows, or wants, of an annotation of its Lease; empty when there is none."""
        if name in (said := self._said.get(machine, {})):
            return said[name]
        lease = self._stored.get(machine)
        return lease.metadata.annotations.get(name, "") if lease else ""

    def stored(self, machine: Key) -> Lease | None:
        return self._stored.get(machine)

    def claim(self, machine: Key, said: Mapping[str, str]) -> bool:
        """Whether the machine was another replica's. `said`: annotations; an empty one says nothing."""
        ours = self.holder(machine) == self._name and self._wanted.get(machine) is not False
        if self._note(machine, said) or not ours:
            self._wish(machine, True)
        return not ours

    def say(self, machine: Key, said: Mapping[str, str]) -> None:
        """Annotations for its Lease, also where another replica has it. An empty one says nothing."""
        if self._note(machine, said):
            self._wish(machine, self._wanted.get(machine))

    def _note(self, machine: Key, said: Mapping[str, str]) -> bool:
        """Whether there is anything to write."""
        lease = self._stored.get(machine)
        stored = lease.metadata.annotations if lease else {}
        news = {name: text for name, text in said.items() if text and stored.get(name) != text}
        if news:
            self._said[machine] = self._said.get(machine, {}) | news
        return bool(news)

    def release(self, machine: Key) -> None:
        if machine in self._stored or self._wanted.get(machine):
            self._wish(machine, False)

    async def write(self) -> None:
        """Without end."""
        failures = 0
        while True:
            await self._want.wait()
            self._want.clear()
            slots = asyncio.Semaphore(_WRITES)
            done = await asyncio.gather(*(self._fulfil(machine, slots) for machine in tuple(self._wanted)))
            failures = 0 if all(done) else failures + 1
            if failures:
                await self._clock.sleep(BACKOFF.pause(failures))
                self._want.set()

    def _wish(self, machine: Key, held: bool | None) -> None:
        self._wanted[machine] = held
        self._want.set()

    async def _fulfil(self, machine: Key, slots: asyncio.Semaphore) -> bool:
        async with slots:
            if not self._refusals.is_due(machine, self._clock.now()):
                return False
            held = self._wanted.get(machine)
            said = self._said.get(machine, {})
            try:
                if held is not False:
                    await self._write(machine, said, held is True)
                else:
                    with contextlib.suppress(NotFoundError):
                        await self._leases.delete(Key(self._namespace, lease_name(machine)))
                    self._stored.pop(machine, None)
            except (TemporaryError, ConflictError, NotFoundError) as error:
                if isinstance(error, RefusedCallError):
                    self._refusals.refused(machine, self._clock.now())
                log.warning("owner not written", machine=str(machine), error=error.message)
                return False
            self._refusals.taken(machine)
            if self._wanted.get(machine) is not held or self._said.get(machine, {}) != said:
                return False
            del self._wanted[machine]
            self._said.pop(machine, None)
            return True

    async def _write(self, machine: Key, annotations: Mapping[str, str], own: bool) -> None:
        """`own`: it is this replica's from now on. One that is not there is made as this replica's."""
        lease, now = self._stored.get(machine), self._clock.wall()
        if lease is None:
            metadata = Metadata(lease_name(machine), self._namespace, annotations=dict(annotations))
            try:
                self.take(await self._leases.create(Lease(metadata, self._name, now, _SECONDS)))
                return
            except ConflictError:
                lease = await self._leases.get(metadata.key)
        metadata = dataclasses.replace(lease.metadata, annotations={**lease.metadata.annotations, **annotations})
        wanted = Lease(metadata, self._name, now, _SECONDS, lease.transitions + 1)
        try:
            self.take(await self._leases.replace(wanted if own else dataclasses.replace(lease, metadata=metadata)))
        except NotFoundError:
            self._stored.pop(machine, None)
            raise
        except ConflictError:
            self.take(await self._leases.get(lease.metadata.key))
            raise

    # what the store says

    def take(self, lease: Lease) -> Key | None:
        """The machine, when another replica has it now, or its annotations are others."""
        machine = _machine(lease.metadata.name)
        known = self._stored.get(machine)
        if known is not None and version_of(known) >= version_of(lease):
            return None
        self._stored[machine] = lease
        same = known is not None and known.holder == lease.holder and known.metadata.annotations == lease.metadata.annotations
        return None if same else machine

    def forget(self, lease: Lease) -> None:
        """`lease`: as the deletion tells it."""
        known = self._stored.get(_machine(lease.metadata.name))
        if known is not None and version_of(known) <= version_of(lease):
            del self._stored[_machine(lease.metadata.name)]

    def keep(self, names: set[str]) -> None:
        """Those that there are."""
        for machine in self._stored.keys() - {_machine(name) for name in names}:
            del self._stored[machine]


def lease_name(machine: Key) -> str:
    return f"{MACHINE}{machine.namespace}.{machine.name}"


def _machine(lease_name: str) -> Key:
    namespace, _, name = lease_name.removeprefix(MACHINE).partition(".")
    return Key(namespace, name)


def version_of(lease: Lease) -> int:
    return int(lease.metadata.resource_version or 0)
