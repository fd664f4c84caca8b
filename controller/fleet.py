"""What the controller knows at this moment: the groups, the workloads of the store, and of its own workloads the last report.

A mirror of the store, fed by the watches and by the answers to the controller's own writes; the higher version stands.
"""

from __future__ import annotations

import asyncio
import dataclasses
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from controller import rendering, tickets
from controller.leases import Leases
from controller.manifest import GROUP_APIS, ExternalGroup
from controller.model import READY, ExternalWorkload, Key
from controller.rendering import Membership, Times
from harness.clock import Clock
from harness.messages import ClusterFacts, StateReport
from harness.values import IPAddress, SpiffeId


@dataclass(slots=True, eq=False)
class Record:
    """One of our workloads. `waiter` ends the held answer of its machine; there is at most one.

    `certificate_until`: epoch seconds, of the one that the machine showed last, to this replica; 0 when it never did.
    `created`: the store's version when it came to be, or when this replica first saw it; 0 until it is stored.
    `marks`: of its holders, with their begin (epoch seconds). `listener` waits for its machine's next call.
    """

    workload: ExternalWorkload
    member: Membership
    sequence: int = -1
    report: StateReport | None = None
    waiter: asyncio.Future[None] | None = None
    certificate_until: float = 0.0
    created: int = 0
    marks: dict[str, float] = field(default_factory=dict)
    listener: asyncio.Future[None] | None = None
    silent_since: float | None = None
    """When this replica first saw that its lease had ended, by the clock that only grows."""

    @property
    def key(self) -> Key:
        return self.workload.metadata.key

    def spoke(self) -> None:
        """Its machine has called."""
        if self.listener is not None and not self.listener.done():
            self.listener.set_result(None)

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Fleet:
    """`holds`: whether the silence of a workload is this replica's to judge. `touched`: groups with news for their status."""

    def __init__(self, clock: Clock, times: Times, facts: ClusterFacts, holds: Callable[[Key], bool] = lambda key: True) -> None:
        self.clock, self.times, self.facts, self._holds = clock, times, facts, holds
        self.touched: set[Key] = set()
        self.pins: dict[tuple[str, str], frozenset[SpiffeId]] = {}
        self.leases = Leases(clock.now())
        self.records: dict[Key, Record] = {}
        self.short_identities = True
        """Whether groups without patterns admit spiffe://<trust domain>/<group>, which has no namespace."""
        self._groups: dict[tuple[str, Key], ExternalGroup] = {}
        self._others: dict[Key, ExternalWorkload] = {}
        self._holders: dict[tuple[IPAddress, int], set[Key]] = {}
        self._instances: dict[tuple[Key, str], Key] = {}
        self._members: dict[Key, set[Key]] = {}
        self._deleted: set[str] = set()
        self._locks: weakref.WeakValueDictionary[tuple[Key, str], asyncio.Lock] = weakref.WeakValueDictionary()

    def lock(self, group: Key, instance: str) -> asyncio.Lock:
        """Held over every write for one machine, so that its writes reach the store in order."""
        return self._locks.setdefault((group, instance), asyncio.Lock())

    # groups

    def group(self, key: Key) -> ExternalGroup | None:
        """Our own API group goes before the other."""
        return next((found for api in GROUP_APIS if (found := self._groups.get((api, key)))), None)

    def shadowed(self, key: Key) -> list[ExternalGroup]:
        """Those that `group` does not give, because another of the same name goes before them."""
        return [found for api in GROUP_APIS if (found := self._groups.get((api, key)))][1:]

    def group_keys(self, api: str) -> set[Key]:
        return {key for own, key in self._groups if own == api}

    def all_groups(self) -> set[Key]:
        return {key for _, key in self._groups}

    def set_group(self, group: ExternalGroup) -> bool:
        """Whether anything is new that workloads and machines should follow. Of a faulty one the last good spec stands."""
        known = self._groups.get((group.api_version, group.key))
        if known is not None and (group.fault or group.spec == known.spec):
            group = dataclasses.replace(group, spec=known.spec)
        self._groups[group.api_version, group.key] = group
        if known is not None and known.status == group.status and known.metadata == group.metadata:
            return False
        self.touched.add(group.key)
        if known is None or known.metadata.annotations != group.metadata.annotations:
            self.pins = tickets.remembered(self.pins, tickets.pins_of(self._groups.values()))
        return known is None or (known.spec, known.metadata.uid) != (group.spec, group.metadata.uid)

    def drop_group(self, api: str, key: Key) -> None:
        self._groups.pop((api, key), None)
        self.touched.add(key)

    def admits_short(self, key: Key) -> bool:
        """Whether a machine that is new may have the SPIFFE ID without a namespace: not where two groups would admit it."""
        return self.short_identities and not any(other.name == key.name and other != key for _, other in self._groups)

    def retime(self, group: Key) -> None:
        """Gives the group's times to the leases that are held here."""
        times = self.times_of(group)
        for record in self.members(group):
            if record.key in self.leases:
                self.leases.retime(record.key, times.lease, times.expiry)

    def times_of(self, group: Key) -> Times:
        found = self.group(group)
        return self.times.of(found) if found else self.times

    # workloads

    def members(self, group: Key) -> list[Record]:
        return [self.records[key] for key in self._members.get(group, ())]

    def live(self, group: Key) -> list[Record]:
        """The members that a group's maximum counts."""
        return [record for record in self.members(group) if not self.lapsed(record)]

    def rank(self, record: Record) -> int:
        """Which of its group's living members it is, in the order in which the store has them."""
        return sum(0 < other.created <= record.created for other in self.live(record.member.group_key))

    def instance(self, group: Key, instance: str) -> Record | None:
        """The record of one machine, whatever its generation."""
        key = self._instances.get((group, instance))
        return self.records.get(key) if key else None

    def holders(self, workload: ExternalWorkload) -> set[Key]:
        """Other workloads with one of its IP:port pairs."""
        found = {key for pair in workload.endpoints for key in self._holders.get(pair, ())}
        return found - {workload.metadata.key}

    def workload_keys(self) -> set[Key]:
        """Those in the store; one that is only being created is not."""
        ours = {key for key, record in self.records.items() if record.workload.metadata.uid}
        return ours | self._others.keys()

    def observe(self, workload: ExternalWorkload) -> Record | None:
        """Takes in the state of a workload, unless a later one is known; the record when it is ours."""
        key, known = workload.metadata.key, self._known(workload.metadata.key)
        if workload.metadata.uid in self._deleted or (known and _version(known) > _version(workload)):
            return self.records.get(key)
        if known and known.metadata.uid and known.metadata.uid != workload.metadata.uid:
            self._remove(key)
        elif known:
            self._unindex(known)
        member = rendering.membership(workload)
        if member is None or member.key != key:
            if key in self.records:
                self._remove(key)
            self._others[key] = workload
            self._index(workload)
            return None
        self._others.pop(key, None)
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = Record(workload, member)
        record.workload, record.member = workload, member
        if not _unreachable(workload):
            record.silent_since = None
        elif record.silent_since is None:
            record.silent_since = self.clock.now()
        record.created = record.created or _version(workload)
        self.touched.add(member.group_key)
        self._instances[member.group_key, member.instance] = key
        self._members.setdefault(member.group_key, set()).add(key)
        self._index(workload)
        self._adopt(record)
        return record

    def forget(self, key: Key, version: int | None = None) -> None:
        """It is gone; `version` of the deletion, None when this controller deleted it and has the answer."""
        known = self._known(key)
        if known is None or (version is not None and _version(known) > version):
            return
        if version is None and known.metadata.uid:
            self._deleted.add(known.metadata.uid)
        self._remove(key)

    def withdraw(self, key: Key) -> None:
        """What was only about to be created is not; a stored one of that key stays."""
        known = self._known(key)
        if known is not None and not known.metadata.uid:
            self._remove(key)

    def forget_uid(self, uid: str) -> None:
        """The watch has shown the deletion: nothing earlier can come any more."""
        self._deleted.discard(uid)

    def wake(self, group: Key | None = None) -> None:
        """Ends the held answers of a group, or of all."""
        for record in self.records.values() if group is None else self.members(group):
            record.wake()

    def lapsed(self, record: Record) -> bool:
        """Whether its lease has ended; of what another replica holds, the condition tells."""
        if record.key in self.leases:
            return self.leases.unreachable_for(record.key, self.clock.now()) is not None
        return _unreachable(record.workload)

    def reserved_for(self, record: Record) -> float:
        """Seconds for which the address of a workload that has lapsed is kept for its last identity: one lease after the end of
        its own. So a machine that starts again finds it. The workload itself is the reservation: it is kept as long (Times.of).
        """
        lease = self.times_of(record.member.group_key).lease
        now = self.clock.now()
        silent = self.leases.unreachable_for(record.key, now)
        if silent is not None:
            return max(0.0, 2 * lease - silent)
        since = now if record.silent_since is None else record.silent_since
        return max(0.0, lease - (now - since))

    def rehold(self, key: Key | None) -> None:
        """`holds` may answer otherwise now, for one workload or for any."""
        if key is not None and key in self.records:
            self.records[key].wake()  # another machine may have registered with this one's secret at another replica
            self.touched.add(self.records[key].member.group_key)
        for record in self.records.values() if key is None else filter(None, (self.records.get(key),)):
            if self._holds(record.key):
                self._adopt(record)
            elif record.key in self.leases:
                self.leases.drop(record.key)

    def certified(self, key: Key, until: float) -> None:
        """Its machine has shown a certificate that ends then."""
        if (record := self.records.get(key)) is not None:
            record.certificate_until = until

    def has_verdict(self, record: Record) -> bool:
        """Whether anything is known that its Ready condition should follow; until then it stays as it is."""
        return record.report is not None or self.leases.unreachable_for(record.key, self.clock.now()) is not None

    def readiness(self, record: Record) -> tuple[bool, str, str]:
        return rendering.readiness(record.report, self.leases.unreachable_for(record.key, self.clock.now()))

    def _known(self, key: Key) -> ExternalWorkload | None:
        record = self.records.get(key)
        return record.workload if record else self._others.get(key)

    def _adopt(self, record: Record) -> None:
        if record.key not in self.leases and self._holds(record.key):
            times, unreachable = self.times_of(record.member.group_key), _unreachable(record.workload)
            self.leases.adopt(record.key, times.lease, times.expiry, self.clock.now(), unreachable=unreachable)

    def _remove(self, key: Key) -> None:
        known = self._known(key)
        if known is not None:
            self._unindex(known)
        self._others.pop(key, None)
        record = self.records.pop(key, None)
        if record is not None:
            self.leases.drop(key)
            member = record.member
            if self._instances.get((member.group_key, member.instance)) == key:
                del self._instances[member.group_key, member.instance]
            self._members[member.group_key].discard(key)
            self.touched.add(member.group_key)
            record.wake()

    def _index(self, workload: ExternalWorkload) -> None:
        for pair in workload.endpoints:
            self._holders.setdefault(pair, set()).add(workload.metadata.key)

    def _unindex(self, workload: ExternalWorkload) -> None:
        for pair in workload.endpoints:
            holders = self._holders.get(pair)
            if holders is not None:
                holders.discard(workload.metadata.key)
                if not holders:
                    del self._holders[pair]


def _unreachable(workload: ExternalWorkload) -> bool:
    condition = workload.status.condition(READY)
    return condition is not None and condition.reason == rendering.UNREACHABLE


def _version(workload: ExternalWorkload) -> int:
    return int(workload.metadata.resource_version or 0)
