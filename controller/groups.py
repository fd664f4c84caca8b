"""What follows from groups: their workloads follow their edits, their status follows their workloads. The leader writes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine, Iterable

import structlog

from controller import admission, rendering, summary
from controller.admission import RefusedError
from controller.fleet import Record
from controller.following import follow
from controller.manifest import BUOYANT_GROUP_API, GROUP_API, ExternalGroup, GroupStatus
from controller.model import Key
from controller.registry import Registry
from controller.store import Change, ChangeType, Collection, ConflictError, Listing, NotFoundError
from harness.errors import TemporaryError

log = structlog.get_logger()
All = Callable[[Iterable[Coroutine[None, None, None]]], Awaitable[None]]


class Groups:
    """`run_all` runs so many writes at once as the store may be asked for."""

    def __init__(self, registry: Registry, run_all: All) -> None:
        self._registry, self._fleet, self._all = registry, registry.fleet, run_all
        self.known = {GROUP_API: asyncio.Event(), BUOYANT_GROUP_API: asyncio.Event()}

    async def follow(self, api: str) -> None:
        """Without end."""
        store = self._registry.store
        groups: Collection[ExternalGroup] = store.groups if api == GROUP_API else store.buoyant_groups

        async def replace(listing: Listing[ExternalGroup]) -> None:
            changed = {group.key for group in listing.items if self._fleet.set_group(group)}
            gone = self._fleet.group_keys(api) - {group.key for group in listing.items}
            for key in gone:
                self._fleet.drop_group(api, key)
            self.known[api].set()
            for key in gone | changed:
                await self._changed(key)

        async def apply(change: Change[ExternalGroup]) -> None:
            key = change.item.key
            if change.type is ChangeType.DELETED:
                self._fleet.drop_group(api, key)
                await self._changed(key)
            elif self._fleet.set_group(change.item):
                await self._changed(key)

        await follow(groups, self._fleet.clock, replace, apply)

    async def take_over(self) -> None:
        """What the leader before may have left undone."""
        await self._all(self._registry.remove(record) for record in self.orphans())
        for key in self._fleet.all_groups():
            self._fleet.touched.add(key)
            await self._lead(key)

    def orphans(self) -> list[Record]:
        return [record for record in self._fleet.records.values() if self._fleet.group(record.member.group_key) is None]

    async def write_statuses(self) -> None:
        """Of the groups with news since the last call."""
        keys, self._fleet.touched = self._fleet.touched, set()
        for key in keys:
            group, wall = self._fleet.group(key), self._fleet.clock.wall()
            if group is None:
                continue
            workloads = [record.workload for record in self._fleet.members(key)]
            await self._write_status(group, summary.group_status(group, workloads, wall))
            for other in self._fleet.shadowed(key):
                await self._write_status(other, summary.shadowed_status(other, group.api_version, wall))

    async def _write_status(self, group: ExternalGroup, status: GroupStatus | None) -> None:
        if status is None:
            return
        wanted = dataclasses.replace(group, status=status)
        store = self._registry.store
        groups: Collection[ExternalGroup] = store.groups if group.api_version == GROUP_API else store.buoyant_groups
        try:
            stored = await groups.patch_status(wanted)
            await self._warn(group, status)
            if self._fleet.set_group(stored):
                await self._changed(group.key)  # the answer was faster than the watch
        except (NotFoundError, ConflictError):
            # The group was deleted, or the definition is another product's and has no status: not tried again until it changes.
            self._fleet.set_group(wanted)
        except TemporaryError as error:
            self._fleet.touched.add(group.key)
            log.warning("status of the group not written", group=str(group.key), error=error.message)

    async def _warn(self, group: ExternalGroup, status: GroupStatus) -> None:
        """Tells the group's author by an event, once for each text: few people read a condition that is True."""
        before, now = group.status.condition(summary.ACCEPTED), status.condition(summary.ACCEPTED)
        if now is None or now.reason != summary.WARNED or (before is not None and before.message == now.message):
            return
        log.warning("group has warnings", group=str(group.key), warnings=now.message)
        await self._registry.warn(group.key, summary.WARNED, now.message)

    async def _changed(self, key: Key) -> None:
        self._fleet.retime(key)
        if self._registry.replicas.leads:
            await self._lead(key)
        self._fleet.wake(key)

    async def _lead(self, key: Key) -> None:
        """No garbage collector is relied upon: the workloads of a deleted group are deleted here."""
        group = self._fleet.group(key)
        if group is None:
            await self._all(self._registry.remove(record) for record in self._fleet.members(key))
        elif group.is_usable:
            await self._all(self._follow_group(group, record) for record in self._fleet.members(key))

    async def _follow_group(self, group: ExternalGroup, record: Record) -> None:
        member = record.member
        async with self._fleet.lock(member.group_key, member.instance):
            if self._fleet.records.get(record.key) is not record or not record.workload.metadata.uid:
                return
            try:
                admission.check_identity(group, member.identity, self._registry.trust_domain)
                admission.check_addresses(group, member.addresses)
                wanted = rendering.workload(group, member, self._fleet.facts.cluster_domain)
                spec = dataclasses.replace(wanted.spec, mesh_tls=record.workload.spec.mesh_tls)
                await self._registry.rewrite(record, dataclasses.replace(wanted, spec=spec))
            except RefusedError as refusal:
                await self._registry.remove(record)
                await self._registry.warn(group.key, "NotAdmitted", refusal.message)
