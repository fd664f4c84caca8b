"""What the controller needs of a place that keeps objects: what a Kubernetes API server offers, no more."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from controller.manifest import ExternalGroup
from controller.model import Event, ExternalWorkload, Key, Lease, Metadata
from harness.errors import HarnessError, TemporaryError


class NotFoundError(HarnessError):
    """No object of that key."""


class ConflictError(HarnessError):
    """It exists already, or it is not any more what the caller read."""


class RefusedCallError(TemporaryError):
    """The store does not know these credentials, or they may not do this. Asking again at once is of no use."""


class InvalidCallError(RefusedCallError):
    """The store will not take the call as it is: what it asks for, or the object that it brings."""


class OversizeError(TemporaryError):
    """The answer is larger than what is read at once."""


class GoneError(TemporaryError):
    """The watch cannot go on from that version: list again."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What of the store this replica cannot use. `kind`: in the plural, as in a path. `why`: for people.

    `name`: of an object that is passed over, or of which a value is; empty where the kind is not there, or may not be read.
    """

    kind: str
    name: str
    why: str


class Stored(Protocol):
    @property
    def metadata(self) -> Metadata: ...


T = TypeVar("T", bound=Stored)


class ChangeType(enum.Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """DELETED carries the last state, with the version of the deletion."""

    type: ChangeType
    item: T


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    items: tuple[T, ...]
    resource_version: str


class Collection(Protocol[T]):
    """All objects of one kind, in every namespace. Any call may raise TemporaryError when the store cannot be reached.

    Versions grow; an item's version is the number of its last change, comparable as an integer.
    """

    async def get(self, key: Key) -> T:
        """Raises NotFoundError."""

    async def list(self) -> Listing[T]: ...

    def watch(self, resource_version: str) -> AsyncIterator[Change[T]]:
        """All changes after that version, in order, without end. Raises GoneError when that is too long ago."""

    async def create(self, item: T) -> T:
        """The status is not taken. Raises ConflictError when the key is taken."""

    async def replace(self, item: T) -> T:
        """Everything but the status. Raises NotFoundError, or ConflictError unless resource_version is the current one."""

    async def patch_status(self, item: T) -> T:
        """The status only. Raises NotFoundError, or ConflictError when another object (uid) has the key now."""

    async def delete(self, key: Key, uid: str = "") -> None:
        """Raises NotFoundError, or ConflictError when `uid` is given and another object has the key now."""


class Store(Protocol):
    @property
    def groups(self) -> Collection[ExternalGroup]: ...

    @property
    def buoyant_groups(self) -> Collection[ExternalGroup]:
        """The same kind under the other product's API group."""

    @property
    def workloads(self) -> Collection[ExternalWorkload]: ...

    @property
    def leases(self) -> Collection[Lease]:
        """One of each replica, renewed; one of each workload, held by the replica it is connected to, written on change."""

    def gaps(self) -> tuple[Gap, ...]:
        """What of it this replica cannot use at this moment."""

    @property
    def refused(self) -> int:
        """How many writes it has refused for good: it may not make them, or they are invalid."""

    async def record(self, event: Event) -> None:
        """Best effort: an event that cannot be kept is dropped."""
