"""The store in memory: for the playground and tests, and for a mesh whose controller runs outside Kubernetes."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import itertools
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar, cast

from controller.manifest import ExternalGroup
from controller.model import Event, ExternalWorkload, Key, Lease
from controller.store import Change, ChangeType, ConflictError, Gap, GoneError, Listing, NotFoundError, Stored
from harness.clock import Clock

T = TypeVar("T", bound=Stored)
HISTORY = 1000
"""Changes of a kind that a watch can resume over; etcd's default is five minutes' worth."""


class EmbeddedCollection(Generic[T]):
    def __init__(self, versions: Iterator[int], clock: Clock) -> None:
        self._versions, self._clock = versions, clock
        self._version = self._forgotten = 0
        self._items: dict[Key, T] = {}
        self._history: collections.deque[tuple[int, Change[T]]] = collections.deque()
        self._grown = asyncio.Event()

    async def get(self, key: Key) -> T:
        return self._current(key)

    async def list(self) -> Listing[T]:
        return Listing(tuple(self._items.values()), str(self._version))

    async def watch(self, resource_version: str) -> AsyncIterator[Change[T]]:
        after = int(resource_version)
        while True:
            if after < self._forgotten:
                raise GoneError(f"version {after} is too old; the oldest is {self._forgotten}")
            grown = self._grown
            for version, change in self._newer(after):
                after = version
                yield change
            if grown is self._grown:
                await grown.wait()

    async def create(self, item: T) -> T:
        if item.metadata.key in self._items:
            raise ConflictError(f"{item.metadata.key} exists already")
        now = datetime.datetime.fromtimestamp(self._clock.wall(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        item = _with(
            item, metadata=dataclasses.replace(item.metadata, uid=str(uuid.uuid4()), generation=1, creation_timestamp=now)
        )
        return self._put(ChangeType.ADDED, _without_status(item))

    async def replace(self, item: T) -> T:
        old = self._current(item.metadata.key)
        if old.metadata.resource_version != item.metadata.resource_version:
            raise ConflictError(f"{item.metadata.key} was changed meanwhile")
        metadata = dataclasses.replace(
            item.metadata,
            uid=old.metadata.uid,
            generation=old.metadata.generation,
            creation_timestamp=old.metadata.creation_timestamp,
        )
        new = _with(item, metadata=metadata)
        if hasattr(old, "status"):
            new = _with(new, status=old.status)
        if new == old:
            return old
        if _spec(new) != _spec(old):
            new = _with(new, metadata=dataclasses.replace(metadata, generation=metadata.generation + 1))
        return self._put(ChangeType.MODIFIED, new)

    async def patch_status(self, item: T) -> T:
        old = self._current(item.metadata.key, item.metadata.uid)
        new = _with(old, status=cast(Any, item).status)
        return old if new == old else self._put(ChangeType.MODIFIED, new)

    async def delete(self, key: Key, uid: str = "") -> None:
        self._put(ChangeType.DELETED, self._current(key, uid))

    def _newer(self, version: int) -> tuple[tuple[int, Change[T]], ...]:
        newest_first = itertools.takewhile(lambda entry: entry[0] > version, reversed(self._history))
        return tuple(newest_first)[::-1]

    def _current(self, key: Key, uid: str = "") -> T:
        item = self._items.get(key)
        if item is None:
            raise NotFoundError(f"there is no {key}")
        if uid and item.metadata.uid != uid:
            raise ConflictError(f"{key} is another object now")
        return item

    def _put(self, kind: ChangeType, item: T) -> T:
        self._version = next(self._versions)
        item = _with(item, metadata=dataclasses.replace(item.metadata, resource_version=str(self._version)))
        if kind is ChangeType.DELETED:
            del self._items[item.metadata.key]
        else:
            self._items[item.metadata.key] = item
        self._history.append((self._version, Change(kind, item)))
        if len(self._history) > HISTORY:
            self._forgotten = self._history.popleft()[0]
        self._grown.set()
        self._grown = asyncio.Event()
        return item


def _with(item: T, **fields: Any) -> T:
    return cast(T, dataclasses.replace(cast(Any, item), **fields))


def _without_status(item: T) -> T:
    return _with(item, status=type(cast(Any, item).status)()) if hasattr(item, "status") else item


def _spec(item: Any) -> object:
    return getattr(item, "spec", None)


class EmbeddedStore:
    def __init__(self, clock: Clock) -> None:
        versions = itertools.count(1)
        self.groups: EmbeddedCollection[ExternalGroup] = EmbeddedCollection(versions, clock)
        self.buoyant_groups: EmbeddedCollection[ExternalGroup] = EmbeddedCollection(versions, clock)
        self.workloads: EmbeddedCollection[ExternalWorkload] = EmbeddedCollection(versions, clock)
        self.leases: EmbeddedCollection[Lease] = EmbeddedCollection(versions, clock)
        self.events: collections.deque[Event] = collections.deque(maxlen=HISTORY)

    refused = 0

    def gaps(self) -> tuple[Gap, ...]:
        return ()

    async def record(self, event: Event) -> None:
        self.events.append(event)
