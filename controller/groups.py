"""What follows from groups: their workloads follow their edits, their status follows their workloads. The leader writes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine, Iterable

import structlog

from controller import address_proof, admission, rendering, summary
from controller.admission import RefusedError
from controller.fleet import Record
from controller.following import follow
from controller.manifest import BUOYANT_GROUP_API, GROUP_API, AddressProof, ExternalGroup, GroupStatus
from controller.model import Key
from controller.refusals import Refusals
from controller.registry import Registry
from controller.store import Change, ChangeType, Collection, ConflictError, Listing, NotFoundError, RefusedCallError
from harness.errors import TemporaryError

log = structlog.get_logger()
All = Callable[[Iterable[Coroutine[None, None, None]]], Awaitable[None]]


class Groups:
    """`run_all` runs so many writes at once as the store may be asked for."""

    def __init__(self, registry: Registry, run_all: All) -> None:
        self._registry, self._fleet, self._all = registry, registry.fleet, run_all
        self._behind: Refusals[Key] = Refusals()
        self._unfollowed: set[Key] = set()
        self._unwritten: Refusals[Key] = Refusals()
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
        now = self._fleet.clock.now()
        for key in [key for key in self._unfollowed if self._behind.is_due(key, now)]:
            await self._lead(key)
        keys = {key for key in self._fleet.touched if self._unwritten.is_due(key, now)}
        self._fleet.touched -= keys
        for key in keys:
            group, wall = self._fleet.group(key), self._fleet.clock.wall()
            if group is None:
                self._unwritten.taken(key)
                continue
            members = self._fleet.members(key)
            short = any(admission.has_short_identity(group, record.member.identity) for record in members)
            closed = [record.member.inbound_port for record in members if not self._may_reach(record)]
            proofs: list[str] = []
            if group.spec.admission.address_proof is not AddressProof.OFF:
                proofs = [self._registry.replicas.annotation(record.key, address_proof.PROOF) for record in members]
            status = summary.group_status(
                group, [record.workload for record in members], wall, short=short, proofs=proofs, closed=closed
            )
            await self._write_status(group, status)
            for other in self._fleet.shadowed(key):
                await self._write_status(other, summary.shadowed_status(other, group.api_version, wall))

    def _may_reach(self, record: Record) -> bool:
        ports = self._registry.machine_ports
        return not ports or any(record.member.inbound_port in one for one in ports)

    async def _write_status(self, group: ExternalGroup, status: GroupStatus | None) -> None:
        if status is None:
            return
        wanted = dataclasses.replace(group, status=status)
        store = self._registry.store
        groups: Collection[ExternalGroup] = store.groups if group.api_version == GROUP_API else store.buoyant_groups
        try:
            stored = await groups.patch_status(wanted)
            self._unwritten.taken(group.key)
            await self._warn(group, status)
            if self._fleet.set_group(stored):
                await self._changed(group.key)  # the answer was faster than the watch
        except (NotFoundError, ConflictError):
            # The group was deleted, or the definition is another product's and has no status: not tried again until it changes.
            self._fleet.set_group(wanted)
        except TemporaryError as error:
            if isinstance(error, RefusedCallError):
                self._unwritten.refused(group.key, self._fleet.clock.now())
            self._fleet.touched.add(group.key)
            log.warning("status of the group not written", group=str(group.key), error=error.message)

    async def _warn(self, group: ExternalGroup, status: GroupStatus) -> None:
        """Tells the group's author of the group's own faults by an event, once for each text: few people read a condition that is
        True. What it says of the members, such as identities of an older form, is in the condition alone."""
        before, now = group.status.condition(summary.ACCEPTED), status.condition(summary.ACCEPTED)
        if (
            now is None
            or not group.warnings
            or now.reason != summary.WARNED
            or (before is not None and before.message == now.message)
        ):
            return
        log.warning("group has warnings", group=str(group.key), warnings=now.message)
        await self._registry.warn(group.key, summary.WARNED, now.message)

    async def _changed(self, key: Key) -> None:
        self._fleet.retime(key)
        if self._registry.replicas.leads:
            await self._lead(key)
        self._fleet.wake(key)

    async def _lead(self, key: Key) -> None:
        """No garbage collector is relied upon: the workloads of a deleted group are deleted here.

        What the store does not take is done later (`write_statuses`), and keeps no other group waiting.
        """
        group = self._fleet.group(key)
        try:
            if group is None:
                await self._all(self._registry.remove(record) for record in self._fleet.members(key))
            elif group.is_usable:
                await self._all(self._follow_group(group, record) for record in self._fleet.members(key))
            self._unfollowed.discard(key)
            self._behind.taken(key)
        except TemporaryError as error:
            log.warning("workloads do not follow their group yet", group=str(key), error=error.message, hint=error.hint)
            self._unfollowed.add(key)
            if isinstance(error, RefusedCallError):
                self._behind.refused(key, self._fleet.clock.now())

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
