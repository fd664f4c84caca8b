"""The store on an API server: its collections, and events for people."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
from typing import Any

import structlog

from controller import model
from controller.kubernetes.client import MANAGER, Client
from controller.kubernetes.collection import KubernetesCollection
from controller.manifest import BUOYANT_GROUP_API, GROUP_API, GROUP_KIND, stored_group
from controller.model import Event, ExternalWorkload, Lease
from controller.store import ConflictError, Gap, NotFoundError
from harness.errors import TemporaryError

log = structlog.get_logger()
_EVENTS_AT_ONCE, _EVENT_SECONDS = 100, 0.2
"""Events are for people: more than a hundred at once, then five a second, are dropped."""


class KubernetesStore:
    """Leases are those of one namespace (the access's own, if not given), and may have a client of their own."""

    def __init__(self, client: Client, lease_client: Client | None = None, namespace: str = "") -> None:
        self._client, leases = client, lease_client or client

        self.groups = KubernetesCollection(client, GROUP_API, "externalgroups", stored_group)
        self.buoyant_groups = KubernetesCollection(client, BUOYANT_GROUP_API, "externalgroups", stored_group, optional=True)
        self.workloads: KubernetesCollection[ExternalWorkload] = KubernetesCollection(
            client, model.WORKLOAD_API, "externalworkloads", model.workload_from_object
        )
        self.leases: KubernetesCollection[Lease] = KubernetesCollection(
            leases, model.LEASE_API, "leases", model.lease_from_object, namespace=namespace or client.access.namespace
        )
        self._tokens, self._refilled = float(_EVENTS_AT_ONCE), 0.0
        self._sending: set[asyncio.Task[None]] = set()

    def gaps(self) -> tuple[Gap, ...]:
        collections = (self.groups, self.buoyant_groups, self.workloads, self.leases)
        return tuple(gap for collection in collections for gap in collection.gaps())

    @property
    def refused(self) -> int:
        return sum(one.refused for one in (self.groups, self.buoyant_groups, self.workloads, self.leases))

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
