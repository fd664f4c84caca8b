"""How a workload comes to be, while other replicas make theirs: the later of two that exclude each other goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import NoReturn

from controller.admission import RefusedError
from controller.fleet import Fleet, Record
from controller.model import ExternalWorkload, Key
from controller.store import ConflictError, NotFoundError, Store
from harness.errors import TemporaryError

SHOWN_SECONDS = 5.0
"""A watch is milliseconds behind; a machine waits twice as long for its answer."""


class Arrivals:
    """`remove` deletes a workload."""

    def __init__(self, store: Store, fleet: Fleet, remove: Callable[[Record], Awaitable[None]]) -> None:
        self._store, self._fleet, self._remove = store, fleet, remove
        self._awaited: dict[Key, asyncio.Future[RefusedError | None]] = {}

    async def create(self, wanted: ExternalWorkload) -> Record:
        key = wanted.metadata.key
        self._fleet.observe(wanted)
        try:
            stored = await self._store.workloads.create(wanted)
        except ConflictError:
            await self._meet(key)
        finally:
            self._fleet.withdraw(key)
        self._fleet.observe(stored)
        if key not in self._fleet.records:
            raise RefusedError("not-registered", f"{key} was deleted at once", "register again")
        return self._fleet.records[key]

    async def create_counted(self, wanted: ExternalWorkload) -> Record:
        """Within the group's maximum, whoever leads: when the watch shows it, it has shown every one that came before."""
        key = wanted.metadata.key
        verdict = self._awaited[key] = asyncio.get_running_loop().create_future()
        try:
            record = await self.create(wanted)
            async with asyncio.timeout(SHOWN_SECONDS):
                refusal = await verdict
        except RefusedError as gone:  # the leader was faster
            raise (verdict.done() and verdict.result()) or gone from None
        except TimeoutError:
            await self._remove(record)
            raise TemporaryError(f"{key} was created, and the store does not show it") from None
        finally:
            del self._awaited[key]
        if refusal is not None:
            await self._remove(record)
            raise refusal
        return record

    def shown(self, record: Record, leads: bool) -> RefusedError | None:
        """The watch shows that it was created; why it has to be removed, unless somebody here waits to hear that.

        The leader looks at those of all replicas: one may have died before it could.
        """
        verdict = self._awaited.get(record.key)
        refusal = self._one_too_many(record) if leads or verdict is not None else None
        if verdict is None or verdict.done():
            return refusal
        verdict.set_result(refusal)
        return None

    def _one_too_many(self, record: Record) -> RefusedError | None:
        others = (self._fleet.records.get(key) for key in self._fleet.holders(record.workload))
        if any(other is not None and 0 < other.created < record.created for other in others):
            return RefusedError("address-taken", f"{record.key.name} holds the address of another workload")
        group = self._fleet.group(record.member.group_key)
        maximum = group.spec.admission.maximum if group else None
        if maximum is not None and self._fleet.rank(record) > maximum:
            return RefusedError("quota-exceeded", f"{record.key.name} came at the same moment as the last of {maximum}")
        return None

    async def _meet(self, key: Key) -> NoReturn:
        """There is one of that name: another replica's, which the watch has yet to show, or somebody else's."""
        self._fleet.withdraw(key)
        with contextlib.suppress(NotFoundError):
            if self._fleet.observe(await self._store.workloads.get(key)) is None:
                raise RefusedError("name-taken", f"there is an ExternalWorkload {key} that this controller did not make")
        raise TemporaryError(f"{key} was registered at another replica at this moment")
