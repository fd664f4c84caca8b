"""What a registered machine may ask for: to be told of changes, to report its state, to leave. How it joins is in joins.py."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import structlog

from controller import admission, rendering
from controller.admission import EndedError, RefusedError
from controller.answers import Answers
from controller.arrivals import Arrivals
from controller.fleet import Fleet, Record
from controller.holders import Holders
from controller.manifest import ExternalGroup
from controller.model import Event, ExternalWorkload, Key
from controller.replicas import Replicas
from controller.store import ConflictError, NotFoundError, Store
from harness.errors import TemporaryError
from harness.messages import Reason, Registration, StateReport
from harness.values import PortRange, SpiffeId

log = structlog.get_logger()
_PLANNED = (Reason.STARTING.value, Reason.DRAINING.value)
_WRITE_ATTEMPTS = 4
_WARNING_SECONDS = 10.0
"""A group gets at most one warning of a kind in so long: whoever is refused may ask as often as it likes."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who says that it is a registration's machine. `mark`: its holder's (controller.holders), empty from an older machine."""

    identity: SpiffeId
    secret: str | None
    mark: str = ""


class Registry:
    def __init__(self, store: Store, fleet: Fleet, trust_domain: str, replicas: Replicas) -> None:
        self.store, self.fleet, self.trust_domain, self.replicas = store, fleet, trust_domain, replicas
        self.unsettled: set[Key] = set()
        self.machine_ports: tuple[PortRange, ...] = ()
        self.arrivals = Arrivals(store, fleet, self.remove)
        self._answers = Answers()
        self.holders = Holders(fleet, replicas)
        self._warned: dict[tuple[Key, str], float] = {}

    async def hold(self, caller: Caller, key: Key, after: str, seconds: float) -> Registration:
        """The registration, at once when its version is not `after`, else as soon as it changes or `seconds` have passed.

        Renews the lease, and is held no longer than a machine may be silent: so a machine at rest sends nothing else.
        """
        record = self.authenticate(caller, key)
        record.spoke()
        lapsed = self.fleet.lapsed(record)
        self.renew(record)
        if lapsed:
            async with self.fleet.lock(record.member.group_key, record.member.instance):
                await self.settle(record)
        seconds = min(seconds, self.fleet.times_of(record.member.group_key).report)
        current = self.registration(record)
        if current.version != after:
            return current
        record.wake()
        record.waiter = waiter = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await waiter
        if key not in self.fleet.records:
            raise EndedError("not-registered", f"the registration {key} has ended", "register again")
        return self.registration(self.authenticate(caller, key))

    async def report(self, caller: Caller, key: Key, report: StateReport) -> None:
        """Renews the lease; returns when the store has what follows from the report."""
        known = self.authenticate(caller, key)
        known.spoke()
        member = known.member
        async with self.fleet.lock(member.group_key, member.instance):
            record = self.authenticate(caller, key)
            if not record.sequence < report.sequence < 2**63:
                raise RefusedError("stale-sequence", f"report {report.sequence} came after report {record.sequence}")
            if report.reason is Reason.RESTARTING and not self._may_pause(record):
                hint = "it is asked again until another is ready"
                raise RefusedError("last-ready", f"{key} is the only ready workload of {member.group_key}", hint)
            record.sequence, record.report = report.sequence, report
            self.renew(record)
            await self.settle(record)

    def _may_pause(self, record: Record) -> bool:
        """Whether the group goes on without this one: so a fleet that must restart its proxies does so one after the other."""
        others = [other for other in self.fleet.members(record.member.group_key) if other is not record]
        return not others or not self.fleet.readiness(record)[0] or any(self.fleet.readiness(other)[0] for other in others)

    async def leave(self, caller: Caller, key: Key) -> None:
        record = self.authenticate(caller, key)
        async with self.fleet.lock(record.member.group_key, record.member.instance):
            await self.remove(record)
        await self.note(record.member.group_key, "Left", f"{key.name} left")

    def body(self, registration: Registration) -> bytes:
        """The registration as JSON."""
        record = self.fleet.records.get(Key(registration.namespace, registration.name))
        return self._answers.body(record.member.group_key if record else Key("", ""), registration)

    async def settle(self, record: Record) -> None:
        """Writes the Ready condition if it flips; what cannot be written stays in `unsettled`. The caller holds the lock."""
        if self.fleet.records.get(record.key) is not record or not self.fleet.has_verdict(record):
            return
        ready, reason, message = self.fleet.readiness(record)
        wanted = rendering.with_readiness(record.workload, ready, reason, message, self.fleet.clock.wall())
        self.unsettled.add(record.key)
        if wanted is not None:
            try:
                self.fleet.observe(await self.store.workloads.patch_status(wanted))
            except (NotFoundError, ConflictError):
                self.fleet.forget(record.key)
            log.info("readiness changed", workload=str(record.key), ready=ready, reason=reason)
            if not ready and reason not in (rendering.UNREACHABLE, *_PLANNED):
                await self.warn(record.member.group_key, reason, f"{record.key.name} is not ready: {message or reason}")
        self.unsettled.discard(record.key)

    async def remove(self, record: Record) -> None:
        """Deletes the ExternalWorkload; it is well if that is gone already."""
        with contextlib.suppress(NotFoundError, ConflictError):
            await self.store.workloads.delete(record.key, record.workload.metadata.uid)
        self.fleet.forget(record.key)
        self.replicas.release(record.key)
        log.info("workload deleted", workload=str(record.key))

    async def rewrite(self, record: Record, wanted: ExternalWorkload) -> None:
        """Makes the stored workload as wanted; its addresses are taken from now on. The caller holds the lock."""
        before = record.workload
        for _ in range(_WRITE_ATTEMPTS):
            changed = rendering.update(record.workload, wanted)
            if changed is None:
                return
            self.fleet.observe(changed)
            try:
                try:
                    self.fleet.observe(await self.store.workloads.replace(changed))
                    return
                except ConflictError:
                    before = await self.store.workloads.get(record.key)
                    self.fleet.observe(before)
            except NotFoundError:
                self.fleet.forget(record.key)
                raise RefusedError("not-registered", f"{record.key} was deleted meanwhile", "register again") from None
            except TemporaryError:
                self.fleet.observe(before)
                raise
        raise TemporaryError(f"{record.key} keeps being changed by others")

    async def note(self, group: Key, reason: str, message: str, *, warning: bool = False) -> None:
        found = self.fleet.group(group)
        about = (found.api_version, found.metadata.uid) if found else ("", "")
        await self.store.record(Event(group, reason, message, warning, *about))

    async def warn(self, group: Key, reason: str, message: str) -> None:
        now = self.fleet.clock.now()
        if now - self._warned.get((group, reason), float("-inf")) >= _WARNING_SECONDS:
            self._warned[group, reason] = now
            await self.note(group, reason, message, warning=True)

    def authenticate(self, caller: Caller, key: Key) -> Record:
        """The caller's record. Admission is checked again each time: a group may have been edited.

        Not while the group cannot be used: a member stays one, and is told nothing new.
        """
        record = self.fleet.records.get(key)
        if record is None:
            raise RefusedError("not-registered", f"there is no registration {key}", "register again")
        if record.member.identity != caller.identity:
            raise RefusedError("identity-not-allowed", f"{key} was not registered by {caller.identity}")
        if not admission.is_secret(caller.secret, record.member.secret_hash):
            raise RefusedError("secret-mismatch", f"the secret is not that of {key}")
        self.holders.check(record, caller.mark)
        group = self.fleet.group(record.member.group_key)
        if group is None or group.is_usable:
            admission.check_identity(self.group(record.member.group_key), caller.identity, self.trust_domain)
        return record

    def group(self, key: Key) -> ExternalGroup:
        group = self.fleet.group(key)
        if group is None:
            raise RefusedError("group-not-found", f"there is no ExternalGroup {key}", "create the group first")
        if not group.is_usable:
            raise TemporaryError(f"{key} cannot be used: {group.fault}", "correct the group")
        return group

    def renew(self, record: Record) -> None:
        times = self.fleet.times_of(record.member.group_key)
        self.fleet.leases.renew(record.key, times.lease, times.expiry, self.fleet.clock.now())
        self.replicas.claim(record.key)

    def registration(self, record: Record, secret: str | None = None) -> Registration:
        group = self.group(record.member.group_key)
        times = self.fleet.times.of(group)
        copied_by = self.holders.copied_by(record)
        return self._answers.registration(group, record.workload, self.fleet.facts, times, secret, copied_by)
