"""The store on an API server: server-side apply under one field manager, so that what others add to our objects stays."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

import structlog

from controller import model
from controller.kubernetes.client import APPLY, MANAGER, Client
from controller.manifest import BUOYANT_GROUP_API, GROUP_API, GROUP_KIND, stored_group
from controller.model import Event, ExternalWorkload, Key, Lease
from controller.store import Change, ChangeType, ConflictError, Listing, NotFoundError, Stored
from harness.errors import ConfigError, TemporaryError

log = structlog.get_logger()
T = TypeVar("T", bound=Stored)
PAGE = 500
_RESUME_SECONDS = 1.0
_EVENTS_AT_ONCE, _EVENT_SECONDS = 100, 0.2
"""Events are for people: more than a hundred at once, then five a second, are dropped."""


class KubernetesCollection(Generic[T]):
    """`namespace`: only that one is read, so that a Role is enough; empty: all. `selected`: further selectors of list and watch.

    Objects that cannot be read are passed over.
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
    ) -> None:
        self._client, self._api, self._plural, self._read = client, api, plural, read
        self._namespace, self._selected = namespace, selected

    async def get(self, key: Key) -> T:
        return self._read(await self._client.get(self._path(key)))

    async def list(self) -> Listing[T]:
        items: list[T] = []
        query = {**self._selected, "limit": str(PAGE)}
        while True:
            page = await self._client.get(self._all, **query)
            items.extend(item for entry in page["items"] if (item := self._readable(entry)) is not None)
            if not page["metadata"].get("continue"):
                return Listing(tuple(items), page["metadata"]["resourceVersion"])
            query["continue"] = page["metadata"]["continue"]

    async def watch(self, resource_version: str) -> AsyncIterator[Change[T]]:
        """Goes on over the ends of single watches; TemporaryError when one cannot be had at all."""
        while True:
            started = asyncio.get_running_loop().time()
            async for event in self._client.watch(self._all, **self._selected, resourceVersion=resource_version):
                resource_version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK" and (item := self._readable(event["object"])) is not None:
                    yield Change(ChangeType(event["type"]), item)
            if asyncio.get_running_loop().time() - started < _RESUME_SECONDS:
                await asyncio.sleep(_RESUME_SECONDS)

    async def create(self, item: T) -> T:
        # The server takes version 0 for a new object only: an apply that must not meet an old one.
        body = self._object(item)
        body["metadata"] = {**body["metadata"], "resourceVersion": "0"}
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
        try:
            form = "application/json-patch+json"
            return self._read(await self._client.send("PATCH", path, patch, form=form, fieldManager=MANAGER))
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
        await self._client.send("DELETE", self._path(key), options)

    async def served(self) -> bool:
        """Whether the server knows this kind."""
        try:
            await self._client.get(self._all, limit="1")
        except NotFoundError:
            return False
        return True

    async def _apply(self, key: Key, body: Mapping[str, Any]) -> T:
        query = {"fieldManager": MANAGER, "force": "true"}
        return self._read(await self._client.send("PATCH", self._path(key), body, form=APPLY, **query))

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

    def _readable(self, entry: Mapping[str, Any]) -> T | None:
        try:
            return self._read({"kind": GROUP_KIND, **entry, "apiVersion": self._api})
        except ConfigError as error:
            metadata = entry["metadata"]
            name = f"{metadata.get('namespace', '')}/{metadata['name']}"
            log.warning("object passed over", kind=self._plural, object=name, error=str(error))
            return None

    @property
    def _all(self) -> str:
        place = f"/namespaces/{self._namespace}" if self._namespace else ""
        return f"{_root(self._api)}{place}/{self._plural}"

    def _path(self, key: Key) -> str:
        return f"{_root(self._api)}/namespaces/{key.namespace}/{self._plural}/{key.name}"


def _root(api: str) -> str:
    return f"/apis/{api}" if "/" in api else f"/api/{api}"


class KubernetesStore:
    """Leases are those of one namespace (the access's own, if not given), and may have a client of their own."""

    def __init__(self, client: Client, lease_client: Client | None = None, namespace: str = "") -> None:
        self._client, leases = client, lease_client or client

        self.groups = KubernetesCollection(client, GROUP_API, "externalgroups", stored_group)
        self.buoyant_groups = KubernetesCollection(client, BUOYANT_GROUP_API, "externalgroups", stored_group)
        self.workloads: KubernetesCollection[ExternalWorkload] = KubernetesCollection(
            client, model.WORKLOAD_API, "externalworkloads", model.workload_from_object
        )
        self.leases: KubernetesCollection[Lease] = KubernetesCollection(
            leases, model.LEASE_API, "leases", model.lease_from_object, namespace=namespace or client.access.namespace
        )
        self._tokens, self._refilled = float(_EVENTS_AT_ONCE), 0.0
        self._sending: set[asyncio.Task[None]] = set()

    async def record(self, event: Event) -> None:
        """Returns at once."""
        now = asyncio.get_running_loop().time()
        self._tokens = min(_EVENTS_AT_ONCE, self._tokens + (now - self._refilled) / _EVENT_SECONDS)
        self._refilled = now
        if self._tokens < 1:
            return
        self._tokens -= 1
        task = asyncio.get_running_loop().create_task(self._send(event))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def flush(self) -> None:
        """Returns when all events are sent, or dropped."""
        await asyncio.gather(*self._sending)

    async def _send(self, event: Event) -> None:
        try:
            await self._client.send("POST", f"/api/v1/namespaces/{event.about.namespace}/events", _event(event))
        except (TemporaryError, NotFoundError, ConflictError) as error:
            log.warning("event dropped", reason=event.reason, error=error.message)


def _event(event: Event) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    when = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = hashlib.sha256(f"{now.timestamp()}{event.message}".encode()).hexdigest()[:16]
    about = {"apiVersion": event.api, "kind": GROUP_KIND, "namespace": event.about.namespace, "name": event.about.name}
    return {
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": f"{event.about.name}.{digest}", "namespace": event.about.namespace},
        "involvedObject": about | ({"uid": event.uid} if event.uid else {}),
        "reason": event.reason, "message": event.message[:1024], "type": "Warning" if event.warning else "Normal",
        "source": {"component": MANAGER}, "reportingComponent": MANAGER,
        "firstTimestamp": when, "lastTimestamp": when, "count": 1,
    }  # fmt: skip
