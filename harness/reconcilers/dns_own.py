"""Whether the machine's own name servers know the cluster's names: then DNS stays as it is, as in a container with `--dns`.

They are asked, since no file on the machine says it: the resolver of a container's engine forwards to servers that only the
engine knows. The cluster's own servers are asked for the same name, because another cluster can have the same domain.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from harness import tasks
from harness.clock import Clock
from harness.system import dns_query
from harness.system.dns_query import Kind
from harness.values import HostPort, IPAddress

NAME = "kubernetes.default.svc"  # every cluster has this Service
ASK_SECONDS, FIRST_SECONDS = 1.0, 2.0
RETRY_SECONDS, LOOK_SECONDS = 1.0, 15.0
TRIES = 3  # before servers that say nothing count as servers that do not know
_SILENT = (None, 2)  # no answer, or a failure of the server, which may only have no route yet
Addresses = frozenset[IPAddress]


@dataclass(frozen=True, slots=True)
class Subject:
    """`own`: the machine's name servers, in their order; `cluster`: those that know `domain`."""

    domain: str
    cluster: tuple[HostPort, ...]
    own: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What was asked last. `answered`: whether the own servers know the cluster's names; None before that is known."""

    subject: Subject | None = None
    answered: bool | None = None


class OwnServers:
    """Asks, and asks again from time to time. Silence changes nothing that is known."""

    def __init__(self, clock: Clock, wake: Callable[[str], None]) -> None:
        self._clock, self._wake = clock, wake
        self._task: asyncio.Task[None] | None = None
        self.known = Known()

    async def ask(self, subject: Subject) -> None:
        """Waits for the first answer; each later one that differs wakes the cycle."""
        if self._task is not None:
            self._task.cancel()
        self.known = Known(subject, await tasks.within(FIRST_SECONDS, look(subject)))
        self._wake("the machine's own name servers have been asked")
        self._task = tasks.keep("the questions to the machine's own name servers", partial(self._keep, subject), self._clock)

    async def _keep(self, subject: Subject) -> None:
        tries = 1
        while True:
            before = self.known.answered
            await self._clock.sleep(RETRY_SECONDS if before is None else LOOK_SECONDS)
            found = await look(subject)
            tries += 1
            if found is None:
                found = before
                if before is None and tries >= TRIES:
                    found = False
            if found is not before:
                self.known = Known(subject, found)
                self._wake("the machine's own name servers answer differently")


async def look(subject: Subject) -> bool | None:
    """Whether the own servers know what the cluster's do; None when the own ones say nothing."""
    name = f"{NAME}.{subject.domain}"
    own = await first(name, [HostPort(str(server), dns_query.PORT) for server in _addresses(subject.own)])
    if own is None:
        return None
    if not own:
        return False
    cluster = await first(name, subject.cluster)
    return cluster is None or own == cluster


async def first(name: str, servers: tuple[HostPort, ...] | list[HostPort]) -> Addresses | None:
    """As the resolver does it: of the first server that says something. None when none does."""
    refused: Addresses | None = None
    for server in servers:
        if server.ip is None:
            continue
        answers = await asyncio.gather(
            *(dns_query.ask(server.ip, name, kind, ASK_SECONDS, server.port) for kind in (Kind.A, Kind.AAAA))
        )
        codes = {answer.code for answer in answers}
        found = frozenset(address for answer in answers for address in answer.addresses)
        if found or codes & {0, 3}:
            return found
        if not codes <= set(_SILENT):
            refused = Addresses()
    return refused


def _addresses(words: tuple[str, ...]) -> Iterator[IPAddress]:
    for word in words:
        with contextlib.suppress(ValueError):
            yield ipaddress.ip_address(word.partition("%")[0])
