"""Objects of one kind on an API server: server-side apply under one field manager, so that what others add to them stays."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

import structlog

from controller.kubernetes.client import APPLY, MANAGER, Client
from controller.manifest import GROUP_KIND
from controller.model import Key
from controller.store import (
    Change,
    ChangeType,
    ConflictError,
    Gap,
    GoneError,
    Listing,
    NotFoundError,
    OversizeError,
    RefusedCallError,
    Stored,
)
from harness.errors import ConfigError, TemporaryError

log = structlog.get_logger()
T = TypeVar("T", bound=Stored)
PAGE = 500
_MALFORMED = (ConfigError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What reading an object may raise whose values are not as the kind's definition has them. The others must still count."""
_Entries = list[Any]  # within the class the name is a method's
_VERSION = re.compile(r"[0-9]{1,19}")
_RESUME_SECONDS = 1.0
_NAME_CHARACTERS, _WHY_CHARACTERS = 320, 1000


class KubernetesCollection(Generic[T]):
    """`namespace`: only that one is read, so that a Role is enough; empty: all. `selected`: further selectors of list and watch.
    `optional`: a cluster may do without this kind.

    Objects that cannot be read are passed over; `gaps` names them.
    """

    def __init__(
        self,
        client: Client,
        api: str,
        plural: str,
        read: Callable[[Mapping[str, Any]], T],
        *,
        namespace: str = "",
        selected: Mapping[str, str] = MappingProxyType({}),
        optional: bool = False,
    ) -> None:
        self._client = client
        self._api = api
        self._plural = plural
        self._read = read
        self._namespace = namespace
        self._selected = selected
        self._optional = optional
        self._unreadable: dict[str, str] = {}
        self._absent = ""
        self.refused = 0

    def gaps(self) -> tuple[Gap, ...]:
        """The kind as a whole where the last list did not get it, and each object that is passed over."""
        whole = (Gap(self._plural, "", self._absent),) if self._absent else ()
        return (*whole, *(Gap(self._plural, name, why) for name, why in self._unreadable.items()))

    async def get(self, key: Key) -> T:
        """Raises TemporaryError, too, for an object that cannot be read."""
        return self._answered(await self._client.get(self._path(key)))

    async def list(self) -> Listing[T]:
        try:
            entries, version = await self._entries()
        except (NotFoundError, RefusedCallError) as error:
            self._absent = "" if self._optional and isinstance(error, NotFoundError) else error.message or "it is not there"
            raise
        self._absent = ""
        before, self._unreadable = self._unreadable, {}
        return Listing(tuple(item for entry in entries if (item := self._readable(entry, before)) is not None), version)

    async def _entries(self) -> tuple[_Entries, str]:
        """All objects, page by page: fewer at once where they are large."""
        entries: _Entries = []
        query, limit = dict(self._selected), PAGE
        while True:
            try:
                page = await self._client.get(self._all, **query, limit=str(limit))
            except OversizeError:
                if limit == 1:
                    raise
                limit = max(1, limit // 4)
                continue
            try:
                entries.extend(page["items"])
                version, more = str(page["metadata"]["resourceVersion"]), str(page["metadata"].get("continue") or "")
            except _MALFORMED:
                raise TemporaryError(f"the API server's list of {self._plural} is none") from None
            if not more:
                return entries, version
            query["continue"] = more

    async def watch(self, resource_version: str) -> AsyncIterator[Change[T]]:
        """Goes on over the ends of single watches; TemporaryError when one cannot be had at all."""
        while True:
            started = asyncio.get_running_loop().time()
            async for event in self._client.watch(self._all, **self._selected, resourceVersion=resource_version):
                resource_version = _version_in(event["object"]) or resource_version
                if event["type"] == "BOOKMARK":
                    continue
                item = self._readable(event["object"], self._unreadable)
                if item is not None:
                    yield Change(_change_type(event["type"]), item)
                elif event["type"] == "DELETED":
                    self._unreadable.pop(_name_of(event["object"]), None)
                    raise GoneError("an object that could not be read was deleted")  # it may be known as it was before
            if asyncio.get_running_loop().time() - started < _RESUME_SECONDS:
                await asyncio.sleep(_RESUME_SECONDS)

    async def create(self, item: T) -> T:
        # The server takes version 0 for a new object only: an apply that must not meet an old one.
        body = self._object(item)
        body["metadata"] = {**body["metadata"], "resourceVersion": "0"}
        with self._told(item.metadata.key):
            try:
                return await self._apply(item.metadata.key, body)
            except ConflictError:
                raise
            except TemporaryError:
                if await self._exists(item.metadata.key):
                    raise ConflictError(f"{item.metadata.key} exists already") from None
                raise

    async def replace(self, item: T) -> T:
        body = self._object(item)
        body["metadata"] = {**body["metadata"], "resourceVersion": item.metadata.resource_version, "uid": item.metadata.uid}
        with self._told(item.metadata.key):
            try:
                return await self._apply(item.metadata.key, body)
            except ConflictError:
                await self.get(item.metadata.key)
                raise

    async def patch_status(self, item: T) -> T:
        # The server does not compare the uid of an apply to /status; a JSON patch can.
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": item.metadata.uid},
            {"op": "add", "path": "/status", "value": cast(Any, item).to_object()["status"]},
        ]
        path = f"{self._path(item.metadata.key)}/status"
        with self._told(item.metadata.key):
            try:
                form = "application/json-patch+json"
                return self._answered(await self._client.send("PATCH", path, patch, form=form, fieldManager=MANAGER))
            except TemporaryError:
                if (await self.get(item.metadata.key)).metadata.uid != item.metadata.uid:
                    raise ConflictError(f"{item.metadata.key} is another object now") from None
                raise

    async def annotate(self, key: Key, annotations: Mapping[str, str], manager: str) -> None:
        """Adds these, as a field manager of their own: applying the object again without them leaves them."""
        kind = (await self.get(key)).to_object()["kind"]  # type: ignore[attr-defined]
        body = {"apiVersion": self._api, "kind": kind, "metadata": {"name": key.name, "annotations": dict(annotations)}}
        await self._client.send("PATCH", self._path(key), body, form=APPLY, fieldManager=manager, force="true")

    async def delete(self, key: Key, uid: str = "") -> None:
        options = {"apiVersion": "v1", "kind": "DeleteOptions"} | ({"preconditions": {"uid": uid}} if uid else {})
        with self._told(key):
            await self._client.send("DELETE", self._path(key), options)

    @contextlib.contextmanager
    def _told(self, key: Key) -> Iterator[None]:
        """A write that is refused for good is told of at once, with the reason."""
        try:
            yield
        except RefusedCallError as error:
            self.refused += 1
            log.error("write refused", kind=self._plural, object=str(key), error=error.message, hint=error.hint)
            raise

    async def _apply(self, key: Key, body: Mapping[str, Any]) -> T:
        query = {"fieldManager": MANAGER, "force": "true"}
        return self._answered(await self._client.send("PATCH", self._path(key), body, form=APPLY, **query))

    async def _exists(self, key: Key) -> bool:
        try:
            await self.get(key)
        except NotFoundError:
            return False
        return True

    def _object(self, item: T) -> dict[str, Any]:
        """What we own of it: not the status, nor what the server sets."""
        whole: dict[str, Any] = cast(Any, item).to_object()
        named = ("name", "namespace", "labels", "annotations", "ownerReferences")
        whole["metadata"] = {name: value for name, value in whole["metadata"].items() if name in named}
        return {name: value for name, value in whole.items() if name != "status"}

    def _answered(self, data: Any) -> T:
        """Raises TemporaryError."""
        try:
            return self._read(data)
        except _MALFORMED as error:
            raise TemporaryError(f"{self._plural} {_name_of(data)} cannot be read: {error}") from None

    def _readable(self, entry: Any, told: Mapping[str, str]) -> T | None:
        """`told`: what the log has already, by name."""
        name = _name_of(entry)
        try:
            item = self._read({"kind": GROUP_KIND, **entry, "apiVersion": self._api})
            if not _VERSION.fullmatch(item.metadata.resource_version):
                raise ValueError("metadata.resourceVersion is not a number")
        except _MALFORMED as error:
            why = str(error)[:_WHY_CHARACTERS]
            if told.get(name) != why:
                log.error("object passed over", kind=self._plural, object=name, error=why)
            self._unreadable[name] = why
            return None
        self._unreadable.pop(name, None)
        return item

    @property
    def _all(self) -> str:
        place = f"/namespaces/{self._namespace}" if self._namespace else ""
        return f"{_root(self._api)}{place}/{self._plural}"

    def _path(self, key: Key) -> str:
        return f"{_root(self._api)}/namespaces/{key.namespace}/{self._plural}/{key.name}"


def _name_of(data: Any) -> str:
    """Namespace/name, as far as the object has them."""
    metadata = data.get("metadata") if isinstance(data, Mapping) else None
    if not isinstance(metadata, Mapping):
        return "?"
    return f"{metadata.get('namespace', '')}/{metadata.get('name', '?')}"[:_NAME_CHARACTERS]


def _version_in(data: Mapping[str, Any]) -> str:
    """Empty where the object has none."""
    metadata = data.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
    return version if isinstance(version, str) else ""


def _change_type(kind: str) -> ChangeType:
    """Raises TemporaryError."""
    try:
        return ChangeType(kind)
    except ValueError:
        raise TemporaryError(f"a watch tells of {kind[:_NAME_CHARACTERS]!r}, which is not a kind of change") from None


def _root(api: str) -> str:
    return f"/apis/{api}" if "/" in api else f"/api/{api}"
