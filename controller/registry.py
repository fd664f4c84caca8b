"""What a machine may ask for: to join, to be told of changes, to report its state, to leave."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from dataclasses import dataclass

import structlog

from controller import admission, holders, naming, rendering, tickets
from controller.admission import EndedError, RefusedError
from controller.answers import Answers
from controller.arrivals import Arrivals
from controller.fleet import Fleet, Record
from controller.holders import Holders
from controller.manifest import ExternalGroup
from controller.model import Event, ExternalWorkload, Key
from controller.owners import VERSIONS
from controller.rendering import Membership
from controller.replicas import Replicas
from controller.store import ConflictError, NotFoundError, Store
from harness import phrases
from harness.errors import TemporaryError
from harness.messages import Reason, Registration, RegistrationRequest, StateReport
from harness.values import SpiffeId

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
        self.arrivals = Arrivals(store, fleet, self.remove)
        self._answers = Answers()
        self._holders = Holders(fleet, replicas)
        self._warned: dict[tuple[Key, str], float] = {}

    async def register(self, identity: SpiffeId, request: RegistrationRequest) -> tuple[Registration, bool]:
        """The registration with its secret, and whether it is new."""
        group = self._group(Key(request.namespace, request.group))
        try:
            admission.check_identity(group, identity, self.trust_domain)
            admission.check_request(group, request)
            digest = naming.instance_digest(request.group, request.instance_id)
            async with self.fleet.lock(group.key, digest):
                await self._invited(group, digest, identity, request)
                return await self._join(group, digest, identity, request)
        except RefusedError as refusal:
            if refusal.code != "malformed":
                await self.warn(group.key, refusal.reason, refusal.message)
            raise

    async def _invited(self, group: ExternalGroup, digest: str, identity: SpiffeId, request: RegistrationRequest) -> None:
        """An invitation is its first user's, for good, and grants nothing beyond what the group admits."""
        known = self.fleet.instance(group.key, digest) is not None
        if request.invitation is None:
            if group.spec.admission.require_invitation and not known:
                raise RefusedError("invitation-invalid", f"{group.key} takes new machines by invitation only")
            return
        if known:
            return
        ticket, wall = tickets.find(group, request.invitation, identity), self.fleet.clock.wall()
        name = f"{group.key.namespace}.{group.key.name}.{ticket.id}"
        if ticket.expires <= wall and await self.replicas.user(name) != digest:
            raise RefusedError("invitation-invalid", f"invitation {ticket.id} has expired", "ask for a new one")
        if not await self.replicas.use(name, digest, wall + tickets.REMEMBERED_SECONDS):
            raise RefusedError("invitation-invalid", f"invitation {ticket.id} was used by another machine", "ask for a new one")

    async def hold(self, caller: Caller, key: Key, after: str, seconds: float) -> Registration:
        """The registration, at once when its version is not `after`, else as soon as it changes or `seconds` have passed.

        Renews the lease, and is held no longer than a machine may be silent: so a machine at rest sends nothing else.
        """
        record = self.authenticate(caller, key)
        record.spoke()
        lapsed = self.fleet.lapsed(record)
        self._renew(record)
        if lapsed:
            async with self.fleet.lock(record.member.group_key, record.member.instance):
                await self.settle(record)
        seconds = min(seconds, self.fleet.times_of(record.member.group_key).report)
        current = self._registration(record)
        if current.version != after:
            return current
        record.wake()
        record.waiter = waiter = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await waiter
        if key not in self.fleet.records:
            raise EndedError("not-registered", f"the registration {key} has ended", "register again")
        return self._registration(self.authenticate(caller, key))

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
            self._renew(record)
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

    async def _join(
        self, group: ExternalGroup, digest: str, identity: SpiffeId, request: RegistrationRequest
    ) -> tuple[Registration, bool]:
        old = self.fleet.instance(group.key, digest)
        holder = holders.shown_by(request, self.fleet.clock.wall())
        if old is not None and admission.is_secret(request.secret, old.member.secret_hash):
            secret = request.secret or ""
            holder = await self._holders.admit(old, request)
        elif old is None or self.fleet.lapsed(old):
            secret = admission.new_secret(request.secret)
        else:
            hint = "another machine has the same instance id, or this one lost its state; a name is free once its lease has ended"
            raise RefusedError("name-taken", f"{old.key} is live, and the request has not its secret", hint)
        member = Membership(
            request.namespace, request.group, digest, old.member.generation if old else 1,
            identity, request.addresses[:1], request.hostname, admission.hash_secret(secret), request.inbound_port,
        )  # fmt: skip
        wanted = self._render(group, member)
        if old is not None and rendering.is_another(wanted, old.workload):
            wanted = self._render(group, dataclasses.replace(member, generation=member.generation + 1))
        while obstacle := self._obstacle(group, wanted, old):
            await self.remove(obstacle)
        if old is not None and old.key == wanted.metadata.key:
            await self.rewrite(old, wanted)
            record = old
        else:
            if old is not None:
                await self.remove(old)
            limited = group.spec.admission.maximum is not None
            record = await (self.arrivals.create_counted(wanted) if limited else self.arrivals.create(wanted))
            await self.note(group.key, "Joined", f"{record.key.name} joined from {member.addresses[0]} as {identity}")
        record.sequence, record.report = -1, None
        self._renew(record)
        said = {VERSIONS: admission.versions_text(request.versions), **self._holders.text(record, holder)}
        self.replicas.claim(record.key, said)
        log.info(
            "registered", workload=str(record.key), identity=str(identity), address=str(member.addresses[0]), new=old is None
        )
        return self._registration(record, secret), old is None

    def _obstacle(self, group: ExternalGroup, wanted: ExternalWorkload, old: Record | None) -> Record | None:
        """A silent workload that has to go before `wanted` can be written; raises RefusedError when a live one is in the way."""
        for key in sorted(self.fleet.holders(wanted) - ({old.key} if old else set())):
            holder = self.fleet.records.get(key)
            if holder is None or not self.fleet.lapsed(holder):
                raise RefusedError("address-taken", f"{key} holds {wanted.spec.workload_ips[0].ip} and one of the same ports")
            return holder
        maximum = group.spec.admission.maximum
        if old is None and maximum is not None:
            members = self.fleet.members(group.key)
            if len(self.fleet.live(group.key)) >= maximum:
                raise RefusedError(
                    "quota-exceeded", f"{group.key} has {phrases.counted(maximum, 'workload')}, and admits no more"
                )
            if len(members) >= maximum:
                return next(record for record in members if self.fleet.lapsed(record))
        return None

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
        self._holders.check(record, caller.mark)
        group = self.fleet.group(record.member.group_key)
        if group is None or group.is_usable:
            admission.check_identity(self._group(record.member.group_key), caller.identity, self.trust_domain)
        return record

    def _group(self, key: Key) -> ExternalGroup:
        group = self.fleet.group(key)
        if group is None:
            raise RefusedError("group-not-found", f"there is no ExternalGroup {key}", "create the group first")
        if not group.is_usable:
            raise TemporaryError(f"{key} cannot be used: {group.fault}", "correct the group")
        return group

    def _renew(self, record: Record) -> None:
        times = self.fleet.times_of(record.member.group_key)
        self.fleet.leases.renew(record.key, times.lease, times.expiry, self.fleet.clock.now())
        self.replicas.claim(record.key)

    def _render(self, group: ExternalGroup, member: Membership) -> ExternalWorkload:
        return rendering.workload(group, member, self.fleet.facts.cluster_domain)

    def _registration(self, record: Record, secret: str | None = None) -> Registration:
        group = self._group(record.member.group_key)
        times = self.fleet.times.of(group)
        copied_by = self._holders.copied_by(record)
        return self._answers.registration(group, record.workload, self.fleet.facts, times, secret, copied_by)
