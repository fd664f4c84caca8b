"""Which trust anchors the machine goes by, and how told ones are proven. It runs next to the cycle, and wakes it.

What the controller tells is a candidate. It takes force when the controller, and Linkerd's destination and policy services, each
show a certificate with the name that this machine expects, and that leads to an anchor which is both told and trusted already.
So a rotation needs no hand: the old and the new anchor are told together at first. A wrong edit proves and changes nothing.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import anchors, problems, proxy_environment, tasks
from harness.backoff import Backoff
from harness.clock import Clock
from harness.config import schema
from harness.daemon import anchors_kept, needs
from harness.daemon.head_start import Wakes
from harness.errors import ConfigError, UnwritableError
from harness.known import Machine, Progress
from harness.paths import Paths
from harness.status import Condition, Truth, wrong
from harness.system import files, own_chain, spire_certificate, tls_look
from harness.system.workload_api import Svid
from harness.values import HostPort, canonical_pem

NAME = "Anchors"
SECONDS = 3.0
BACKOFF = Backoff(first=1.0, most=60.0, spread=0.4)
NOT_SHARED = "none of them is among those in force or in the file, so that no certificate of the cluster can prove them"


Servers = tuple[tuple[str, HostPort, str], ...]
"""(title, address, name) of each."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be proven, and by whom: the controller first. `trusted`, `then`: what the controller's certificate is verified
    against now, and if these take force. `agreed`: the file has the same anchors."""

    told: str = field(repr=False)
    trusted: str = field(repr=False)
    then: str = field(repr=False)
    servers: Servers
    uid: int
    svid: Svid | None
    agreed: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one attempt: `refused` speaks against the anchors, `unreached` could not be tried."""

    refused: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join((*self.refused, *self.unreached))


class Anchors:
    def __init__(self, paths: Paths, clock: Clock, wake: Wakes, log: Any) -> None:
        self._paths = paths
        self._clock = clock
        self._wake = wake
        self._log = log
        self._file = ""
        self._asked: Asked | None = None
        self._proven: Asked | None = None
        self._outcome: Outcome | None = None
        self._work: asyncio.Task[None] | None = None
        self._failures = 0
        self._next_at = 0.0
        self._unkept: UnwritableError | None = None

    async def look_again(self, config: schema.Config, found: Machine, progress: Progress) -> Machine:
        """With the anchors that count by now."""
        found = self._with_file(config, found)
        told = _told(progress)
        if config.controller.anchors is schema.AnchorsMode.PINNED:
            self._rest()
            return await self._take(found, None)
        if not told and progress.registration is not None:  # it leaves them to the file
            self._rest()
            return await self._take(found, canonical_pem(found.anchors_pem))
        if found.adopted is None or self._unkept is not None:
            # The file's, kept from now on: then an edit of the file alone takes none of them from a member.
            found = await self._take(found, anchors.in_force(found.anchors_pem, found.adopted))
        if told in ("", anchors.in_force(found.anchors_pem, found.adopted)):
            self._rest()
            return found
        asked = _asked(config, found, progress, told)
        if asked == self._proven:
            self._rest()
            self._log.info("the trust anchors that the controller tells are proven, and take force")
            return await self._take(found, told)
        if asked != self._asked:
            self._end()
            self._asked = asked
            self._work = tasks.keep("proving the trust anchors", partial(self._prove, asked), self._clock)
        return found

    def _with_file(self, config: schema.Config, found: Machine) -> Machine:
        """The file as it is now. One that cannot be used, such as one that is written at this moment, changes nothing."""
        path = config.controller.trust_anchors
        seen = f"{path}\n{files.identity(Path(path))}"
        if seen == self._file:
            return found
        self._file = seen
        try:
            return replace(found, anchors_pem=needs.read_anchors(path))
        except ConfigError as error:
            self._log.error("the file of the trust anchors cannot be used; what it had counts", reason=error.message)
            return found

    async def _take(self, found: Machine, told: str | None) -> Machine:
        adopted = anchors.Adopted.of(told, found.anchors_pem) if told is not None else None
        if adopted == found.adopted and self._unkept is None and (adopted or not self._paths.anchors.exists()):
            return found
        try:
            await asyncio.to_thread(anchors_kept.keep, self._paths, adopted)
            self._unkept = None
        except UnwritableError as error:
            self._unkept = error
        return replace(found, adopted=adopted)

    async def _prove(self, asked: Asked) -> None:
        while True:
            # Also after other anchors were told: who tells others each second gets no connection each second.
            await self._clock.sleep(max(0.0, self._next_at - self._clock.now()))
            outcome = await _attempt(asked)
            self._failures += 1
            self._next_at = self._clock.now() + BACKOFF.pause(self._failures, random.random())  # noqa: S311 (spreads load)
            if outcome == Outcome() or (asked.agreed and not outcome.refused):
                self._proven = asked
                self._wake("the told trust anchors are proven")
                return
            if outcome != self._outcome:
                self._outcome = outcome
                self._wake("the told trust anchors are not proven")

    def _rest(self) -> None:
        """There is nothing to prove."""
        self._end()
        self._asked = self._proven = None
        self._failures = 0

    def _end(self) -> None:
        self._outcome = None
        if self._work is not None:
            self._work.cancel()
            self._work = None

    def condition(self, config: schema.Config, found: Machine, progress: Progress) -> Condition | None:
        """None while all is well."""
        told, file = _told(progress), canonical_pem(found.anchors_pem)
        if self._unkept is not None:
            return wrong(NAME, Truth.TRUE, problems.of_failure("keeping the trust anchors for a restart", self._unkept))
        fingerprints = spire_certificate.fingerprints(told)
        if config.controller.anchors is schema.AnchorsMode.PINNED:
            if told in ("", file):
                return None
            came = f"the controller tells {', '.join(fingerprints) or 'what cannot be read'}"
            pinned = problems.ANCHORS_PINNED.found("comparing controller.trust_anchors", came, fingerprints=fingerprints)
            return wrong(NAME, Truth.TRUE, pinned)
        if self._outcome is not None:
            tried = "verifying the servers of the cluster under the told trust anchors"
            unproven = problems.ANCHORS_UNPROVEN.found(tried, str(self._outcome), fingerprints=fingerprints)
            return wrong(NAME, Truth.TRUE, unproven)
        if told == anchors.in_force(found.anchors_pem, found.adopted) != file:
            came = "the controller tells other certificates, which are in use"
            behind = problems.ANCHORS_BEHIND.found("reading controller.trust_anchors", came, fingerprints=fingerprints)
            return wrong(NAME, Truth.TRUE, behind)
        return None


def _told(progress: Progress) -> str:
    known = progress.registration
    return canonical_pem(known.facts.trust_anchors_pem) if known and known.facts.trust_anchors_pem else ""


def _asked(config: schema.Config, found: Machine, progress: Progress, told: str) -> Asked:
    """Where destination and policy are may come from the controller; what they are called never does."""
    facts = progress.registration.facts if progress.registration else None
    if facts is None:
        raise ValueError("nothing is told")
    name = proxy_environment.linkerd_identity(config)
    servers = (
        ("the controller", config.controller.address, config.controller.identity),
        ("destination", proxy_environment.destination(config, facts)[0], name),
        ("policy", proxy_environment.policy(config, facts)[0], name),
    )
    file = found.anchors_pem
    now, then = (anchors.with_file(file, adopted) for adopted in (found.adopted, anchors.Adopted.of(told, file)))
    return Asked(told, now, then, servers, found.user.uid, progress.svid, told == canonical_pem(file))


async def _attempt(asked: Asked) -> Outcome:
    try:
        common = _common(asked)
        if not common:
            return Outcome((NOT_SHARED,))
        own = own_chain.refusal(asked.svid, asked.told) if asked.svid is not None else ""
    except (ValueError, ConfigError) as error:
        return Outcome((f"they cannot be read: {error}",))
    outcome = await _verified(asked.servers, common, asked.uid)
    if outcome == Outcome():
        # From then on it is verified under all of them at once, where OpenSSL may take another of the same name for its issuer.
        outcome = await _verified(asked.servers[:1], asked.then, asked.uid)
    refused = f"this machine's own certificate does not lead to one of them ({own})"
    return replace(outcome, refused=(refused, *outcome.refused)) if own else outcome


async def _verified(servers: Servers, pem: str, uid: int) -> Outcome:
    """`uid`: the proxy's, whose connections are not redirected to the proxy."""
    looks = (tls_look.look(address, name, pem, SECONDS, uid=uid) for _, address, name in servers)
    refused = []
    unreached = []
    for (title, address, _), seen in zip(servers, await asyncio.gather(*looks), strict=True):
        if seen.untrusted:
            refused.append(f"{title} at {address}: {seen.untrusted}")
        elif not seen.good:
            unreached.append(f"{title} at {address}: {seen.refused or seen.untried}")
    return Outcome(tuple(refused), tuple(unreached))


def _common(asked: Asked) -> str:
    """The told ones that are trusted already: the same name and key, since anchors are renewed with both. Raises ValueError."""
    trusted = {(one.subject, one.public_key) for one in spire_certificate.read_pem(asked.trusted.encode())}
    told = spire_certificate.read_pem(asked.told.encode())
    return spire_certificate.to_pem(one for one in told if (one.subject, one.public_key) in trusted)
