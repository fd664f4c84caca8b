"""How a machine joins: its identity, its invitation, its name, and the place that it takes in the group."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import structlog

from controller import address_proof, admission, holders, naming, rendering, tickets
from controller.admission import RefusedError
from controller.fleet import Record
from controller.manifest import ExternalGroup
from controller.model import ExternalWorkload, Key
from controller.own_networks import OwnNetworks
from controller.owners import VERSIONS
from controller.registry import Registry
from controller.rendering import Membership
from harness import phrases
from harness.messages import Registration, RegistrationRequest
from harness.values import IPAddress, SpiffeId

log = structlog.get_logger()


class Joins:
    """`own`: the cluster's networks; None where the controller reads no cluster."""

    def __init__(self, registry: Registry, own: Callable[[], OwnNetworks | None] | None = None) -> None:
        self._own = own
        self._registry = registry
        self._fleet = registry.fleet
        self._replicas = registry.replicas
        self._arrivals = registry.arrivals
        self._holders = registry.holders
        self._trust_domain = registry.trust_domain
        self._sources_survive = False

    async def register(
        self, identity: SpiffeId, request: RegistrationRequest, source: IPAddress | None = None
    ) -> tuple[Registration, bool]:
        """The registration with its secret, and whether it is new. `source`: the address that the machine calls from."""
        group = self._registry.group(Key(request.namespace, request.group))
        try:
            digest = naming.instance_digest(request.group, request.instance_id)
            short = self._fleet.admits_short(group.key) or self._is_members(group, digest, identity, request)
            admission.check_identity(group, identity, self._trust_domain, short=short)
            admission.check_request(group, request)
            async with self._fleet.lock(group.key, digest):
                await self._invited(group, digest, identity, request)
                return await self._join(group, digest, identity, request, source)
        except RefusedError as refusal:
            if refusal.code != "malformed":
                await self._registry.warn(group.key, refusal.reason, refusal.message)
            raise

    async def _invited(self, group: ExternalGroup, digest: str, identity: SpiffeId, request: RegistrationRequest) -> None:
        """An invitation is its first user's, for good, and grants nothing beyond what the group admits."""
        known = self._fleet.instance(group.key, digest) is not None
        if request.invitation is None:
            if group.spec.admission.require_invitation and not known:
                raise RefusedError("invitation-invalid", f"{group.key} takes new machines by invitation only")
            return
        if known:
            return
        ticket, wall = tickets.find(group, request.invitation, identity), self._fleet.clock.wall()
        name = f"{group.key.namespace}.{group.key.name}.{ticket.id}"
        if ticket.expires <= wall and await self._replicas.user(name) != digest:
            raise RefusedError("invitation-invalid", f"invitation {ticket.id} has expired", "ask for a new one")
        if not await self._replicas.use(name, digest, wall + tickets.REMEMBERED_SECONDS):
            raise RefusedError("invitation-invalid", f"invitation {ticket.id} was used by another machine", "ask for a new one")

    async def _join(
        self, group: ExternalGroup, digest: str, identity: SpiffeId, request: RegistrationRequest, source: IPAddress | None
    ) -> tuple[Registration, bool]:
        old = self._fleet.instance(group.key, digest)
        proof = self._proof(group, digest, identity, request, source)
        holder = holders.shown_by(request, self._fleet.clock.wall())
        if old is not None and admission.is_secret(request.secret, old.member.secret_hash):
            secret = request.secret or ""
            holder = await self._holders.admit(old, request)
        elif old is None or self._fleet.lapsed(old):
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
            await self._registry.remove(obstacle)
        if old is not None and old.key == wanted.metadata.key:
            await self._registry.rewrite(old, wanted)
            record = old
        else:
            if old is not None:
                await self._registry.remove(old)
            limited = group.spec.admission.maximum is not None
            record = await (self._arrivals.create_counted(wanted) if limited else self._arrivals.create(wanted))
            await self._registry.note(group.key, "Joined", f"{record.key.name} joined from {member.addresses[0]} as {identity}")
        record.sequence, record.report = -1, None
        self._registry.renew(record)
        said = {VERSIONS: admission.versions_text(request.versions), **self._holders.text(record, holder)}
        if proof.startswith(address_proof.UNPROVEN) or self._replicas.annotation(record.key, address_proof.PROOF):
            said[address_proof.PROOF] = proof
        self._replicas.claim(record.key, said)
        log.info(
            "registered", workload=str(record.key), identity=str(identity), address=str(member.addresses[0]), new=old is None
        )
        return self._registry.registration(record, secret), old is None

    def _is_members(self, group: ExternalGroup, digest: str, identity: SpiffeId, request: RegistrationRequest) -> bool:
        """Whether a member of the group asks again: it stays one, whatever else a machine that is new is asked for."""
        old = self._fleet.instance(group.key, digest)
        return old is not None and old.member.identity == identity and admission.is_secret(request.secret, old.member.secret_hash)

    def _proof(
        self, group: ExternalGroup, digest: str, identity: SpiffeId, request: RegistrationRequest, source: IPAddress | None
    ) -> str:
        """What is known of its address (address_proof.judge). Raises RefusedError, but not for what a member has already."""
        own = self._own() if self._own is not None else None
        registered = request.addresses[0]
        try:
            mode, facts = group.spec.admission.address_proof, self._fleet.facts
            proof = address_proof.judge(mode, registered, source, facts, own, survives=self._sources_survive)
            self._sources_survive |= proof == address_proof.PROVEN
            return proof
        except RefusedError:
            old = self._fleet.instance(group.key, digest)
            if old is None or old.member.addresses[:1] != (registered,) or not self._is_members(group, digest, identity, request):
                raise
            return f"{address_proof.UNPROVEN} (registered before)"

    def _obstacle(self, group: ExternalGroup, wanted: ExternalWorkload, old: Record | None) -> Record | None:
        """A silent workload that has to go before `wanted` can be written; raises RefusedError when a live one is in the way."""
        for key in sorted(self._fleet.holders(wanted) - ({old.key} if old else set())):
            holder = self._fleet.records.get(key)
            if holder is None or not self._fleet.lapsed(holder):
                raise RefusedError("address-taken", f"{key} holds {wanted.spec.workload_ips[0].ip} and one of the same ports")
            left = self._fleet.reserved_for(holder)
            if left > 0 and holder.member.identity != wanted.spec.mesh_tls.identity:
                address = wanted.spec.workload_ips[0].ip
                hint = "it is free after that, or at once when that machine leaves or takes another address"
                text = f"{address} is reserved for {math.ceil(left)} s for {holder.member.identity}: {key} had it last"
                raise RefusedError("address-taken", text, hint)
            return holder
        maximum = group.spec.admission.maximum
        if old is None and maximum is not None:
            members = self._fleet.members(group.key)
            if len(self._fleet.live(group.key)) >= maximum:
                raise RefusedError(
                    "quota-exceeded", f"{group.key} has {phrases.counted(maximum, 'workload')}, and admits no more"
                )
            if len(members) >= maximum:
                return next(record for record in members if self._fleet.lapsed(record))
        return None

    def _render(self, group: ExternalGroup, member: Membership) -> ExternalWorkload:
        return rendering.workload(group, member, self._fleet.facts.cluster_domain)
