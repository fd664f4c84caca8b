"""Whether applications get the cluster's names: a real question by the path that they use, the first server of resolv.conf.

All settings may be right and nothing resolves: systemd-resolved may want TLS or signatures that our server does not have.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import dns_text, phrases, tasks
from harness.clock import Clock
from harness.reconcilers import dns_own
from harness.reconcilers.dns_own import Subject
from harness.specs import DnsSpec
from harness.system import dns_query, files
from harness.system.dns_query import Kind

ASK_SECONDS, RETRY_SECONDS, LOOK_SECONDS = 3.0, 1.0, 15.0
CODES = {0: "that it has no address", 2: "a failure (SERVFAIL)", 3: "that there is no such name", 5: "that it refuses"}


class Answers:
    """Asks, and asks again from time to time. `fault`: what came instead of an answer, empty after one, None before the first."""

    def __init__(self, resolv_conf: Path, clock: Clock, wake: Callable[[str], None]) -> None:
        self._resolv_conf, self._clock, self._wake = resolv_conf, clock, wake
        self._task: asyncio.Task[None] | None = None
        self._subject: Subject | None = None
        self.fault: str | None = None

    def follow(self, spec: DnsSpec) -> str | None:
        """What is known of the names of `spec`. When `spec` differs from the one before, the first question is asked now."""
        subject = Subject(spec.domain, spec.servers, dns_text.servers(files.text(self._resolv_conf) or "")[:1])
        if subject != self._subject:
            self.stop()
            self._subject = subject
            self._task = tasks.keep("the questions for the cluster's names", partial(self._keep, subject), self._clock)
        return self.fault

    def stop(self) -> None:
        """When nobody is to be asked."""
        if self._task is not None:
            self._task.cancel()
        self._task = None
        self._subject = None
        self.fault = None

    async def _keep(self, subject: Subject) -> None:
        while True:
            fault = await unanswered(subject)
            if fault != self.fault:
                self.fault = fault
                self._wake("the question for a name of the cluster has ended differently")
            await self._clock.sleep(RETRY_SECONDS if fault else LOOK_SECONDS)


async def unanswered(subject: Subject, port: int = dns_query.PORT) -> str:
    """What came instead of an address; empty when there was one. Every cluster has the name: where its own servers do not know
    it, they are those of something else, or the domain is another's. `port`: at which the machine's server is asked.
    """
    name = f"{dns_own.NAME}.{subject.domain}"
    server = next(iter(subject.own), "127.0.0.1")  # without any, the C library asks loopback: resolv.conf(5)
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return f"{server} in resolv.conf is no address"
    asked = [dns_query.ask(address, name, kind, ASK_SECONDS, port) for kind in (Kind.A, Kind.AAAA)]
    answers = await asyncio.gather(*asked)
    if any(answer.addresses for answer in answers):
        return ""
    worst = next((answer for answer in answers if answer.code not in (0, 3)), answers[0])
    if worst.code is None:
        return f"{server} was asked for {name}: {worst.error}"
    told = f"{server} was asked for {name}, and says {CODES.get(worst.code, f'the code {worst.code}')}"
    cluster = await dns_own.first(name, subject.cluster)
    if cluster is None:
        return f"{told}; the cluster's servers do not answer"
    return f"{told}; the cluster's servers {'have an address for it' if cluster else phrases.NO_ADDRESS}"
