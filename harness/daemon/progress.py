"""How far the join has come: what the parts say of themselves, put together."""

from __future__ import annotations

from dataclasses import replace

from harness import decode, limits
from harness.clock import Clock
from harness.config import schema
from harness.daemon import machine
from harness.daemon.bring import Bringer
from harness.daemon.bugs import Bugs
from harness.daemon.compose import Parts
from harness.known import Machine, Progress, Refusal
from harness.messages import Registration
from harness.paths import Paths
from harness.system import files


class Finder:
    """`kept`: the registration in the state directory."""

    def __init__(self, paths: Paths, clock: Clock, bugs: Bugs, bringer: Bringer, kept: Registration | None) -> None:
        self._paths, self._clock = paths, clock
        self._bugs, self._bringer = bugs, bringer
        self._kept = kept
        self._proxy_seen = clock.now()
        self._seen: object = None
        self._judged: tuple[Registration | None, tuple[Refusal, ...]] = (None, ())

    async def look(self, config: schema.Config, parts: Parts, found: Machine, before: Progress) -> Progress:
        """How far things are; where that cannot be found out, they count as they were."""
        now = await self._bugs.attempt("the look at how far things are", self._find(config, parts, found, before))
        if now is not None:
            return now
        if before.proxy_certified:
            self._proxy_seen = self._clock.now()  # nothing says that it is lost
        return before

    async def _find(self, config: schema.Config, parts: Parts, found: Machine, before: Progress) -> Progress:
        look = self._bringer.look
        identity = await look(parts.identity)
        registration = await look(parts.registration)
        probes = await look(parts.probes)
        proxy = await look(parts.proxy)
        now = self._clock.now()
        if proxy.certified:
            self._proxy_seen = now
        valid = identity.svid is not None and identity.svid.expires_at > identity.wall
        known = registration.registration or before.registration
        refused = before.refused
        if known is not None and registration.registration is not None:
            known, refused = self._within_limits(config, found, known, before.registration)
        if known is not None and known != self._kept:
            await self._bugs.attempt("keeping what the controller told", self._keep(known))
        return replace(
            before,
            svid=identity.svid if valid else None,
            identity_served=valid and identity.error is None,
            left_alone=proxy.pid is not None or machine.left_alone(self._paths, found.user.uid),
            registration=known,
            refused=refused,
            probe_failure=probes.failing,
            probes_decided=probes.decided,
            proxy_certified=proxy.certified,
            proxy_lost_seconds=now - self._proxy_seen,
            cordon=machine.read_cordon(self._paths),
        )

    def _within_limits(
        self, config: schema.Config, found: Machine, told: Registration, before: Registration | None
    ) -> tuple[Registration | None, tuple[Refusal, ...]]:
        """Judged once for each that is told: it may have a thousand nodes, and the cycle comes often."""
        seen = (told, config, found.gateways, found.resolvers, found.ssh_peers)
        if before is None or before is not self._judged[0] or seen != self._seen:
            self._judged = limits.within(config, found, told, before)
            self._seen = seen
        return self._judged

    async def _keep(self, known: Registration) -> None:
        files.write_json(self._paths.known_registration, decode.encode(known), mode=0o600)
        self._kept = known
