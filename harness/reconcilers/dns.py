"""The cluster's names. A dnsmasq of our own asks the cluster's servers; a front makes the machine ask it: systemd-resolved where
names go through that, else resolv.conf.

Where the machine's own name servers know the cluster's names, nothing is changed (`dns_own.py`).

It fails open: no other name depends on the cluster's servers, and a dead dnsmasq refuses at once. Under systemd it is a unit of
its own, as the proxy is, and outlives a restart of the daemon. Why also with systemd-resolved: that sends a link's questions out
of that very link, so that servers which are reached by another one have to be asked by somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness import dns_text, phrases, problems
from harness.clock import Clock
from harness.errors import HarnessError, UnreadableError, UnwritableError
from harness.listeners import elsewhere
from harness.reconcilers.dns_answers import Answers
from harness.reconcilers.dns_own import NAME as NAME_ASKED
from harness.reconcilers.dns_own import Known, OwnServers, Subject
from harness.specs import DnsSpec, User
from harness.status import Condition, Truth, wrong
from harness.supervisor import ChildState, State, Supervised
from harness.system import files, tcp_sockets
from harness.system.dns_query import PORT
from harness.system.process import PATH, Command

NAME = "dns"
STOP_GRACE = 2.0


class Front(Protocol):
    """`listen`: where dnsmasq is to be found by it; `file`: by which the machine knows whom to ask.

    What there is of it is known by looking, not by memory."""

    name: str
    listen: str
    file: str

    async def observe(self) -> Any: ...
    def diff(self, desired: DnsSpec | None, observed: Any) -> tuple[Any, ...]: ...
    async def apply(self, action: Any) -> None: ...
    def upstream(self, observed: Any) -> tuple[str, ...]:
        """Servers that dnsmasq is to ask for all other names; none where it is not asked for these."""


@dataclass(frozen=True, slots=True)
class Observed:
    """`conf`: what dnsmasq was started with; `program`: where it is, if it is installed; `own`: what the machine's own name
    servers were asked and said."""

    program: str | None
    conf: str
    child: ChildState
    now: float
    fronts: Mapping[str, Any]
    own: Known
    taken: str = ""
    """Who has dnsmasq's port, while dnsmasq does not run."""


# `removes`, of an action: it takes away or replaces what the machine uses, so it waits while it is not known what is wanted.


@dataclass(frozen=True, slots=True)
class Ask:
    """Changes nothing."""

    subject: Subject
    removes: bool = False

    def __str__(self) -> str:
        return f"ask {', '.join(self.subject.own)} whether they know the names of {self.subject.domain}"


@dataclass(frozen=True, slots=True)
class Start:
    program: str
    conf: str
    user: User
    removes: bool = False

    def __str__(self) -> str:
        return f"start dnsmasq as uid {self.user.uid}, which asks the cluster's servers"


@dataclass(frozen=True, slots=True)
class Stop:
    removes: bool = False

    def __str__(self) -> str:
        return "stop dnsmasq"


@dataclass(frozen=True, slots=True)
class Change:
    front: str
    action: Any
    removes: bool = False

    def __str__(self) -> str:
        return str(self.action)


Action = Ask | Start | Stop | Change


class Dns:
    """`chosen` is the name of the front in use; what another one has of ours goes. `own`: says whether a front is needed; None
    where one is wanted in any case. `answers`: says whether applications get the names; None where nobody is to ask."""

    name = "dns"

    def __init__(
        self,
        runners: Any,
        fronts: tuple[Front, ...],
        chosen: str,
        conf: Path,
        clock: Clock,
        wake: Callable[[str], None],
        own: OwnServers | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._runners, self._conf, self._clock = runners, conf, clock
        self._fronts, self._chosen = {front.name: front for front in fronts}, chosen
        self._dnsmasq: Supervised[Any] = Supervised(runners, clock, wake)
        self._own, self._answers = own, answers
        self._fault: HarnessError | None = None  # why the last action could not be done
        self._looked = False

    async def observe(self) -> Observed:
        if not self._looked:
            self._looked = True
            if (running := await self._runners.find(NAME)) is not None:
                self._dnsmasq.adopt(running)
        fronts = {name: await front.observe() for name, front in self._fronts.items()}
        program = shutil.which("dnsmasq", path=PATH)
        own = self._own.known if self._own is not None else Known()
        front = self._fronts.get(self._chosen)  # a cleanup has chosen none
        ours = self._dnsmasq.state.alive
        taken = await asyncio.to_thread(_port_taken, front.listen) if front is not None and not ours else ""
        return Observed(program, self._left(), self._dnsmasq.state, self._clock.now(), fronts, own, taken)

    def _left(self) -> str:
        """The configuration that dnsmasq was started with; empty, so that it is started again, where that is not known."""
        try:
            return files.text(self._conf) or ""
        except UnreadableError:
            return ""

    def diff(self, desired: DnsSpec | None, observed: Observed) -> tuple[Action, ...]:
        if desired is not None and self._may_do_without(desired):
            subject = Subject(desired.domain, desired.servers, self._fronts[self._chosen].upstream(observed.fronts[self._chosen]))
            if observed.own.subject != subject:
                return (Ask(subject),)
        able = desired is not None and desired.user is not None and observed.program is not None
        wanted = desired if desired is not None and able and self._needed(desired, observed) else None
        in_use = observed.child.alive
        changes = [
            Change(name, action, removes=in_use and wanted is None and name == self._chosen)
            for name, front in self._fronts.items()
            for action in front.diff(wanted if name == self._chosen else None, observed.fronts[name])
        ]
        if wanted is None or wanted.user is None or observed.program is None:
            return (*changes, *((Stop(removes=in_use),) if observed.child.state is not State.STOPPED else ()))
        front = self._fronts[self._chosen]
        conf = dns_text.dnsmasq_conf(front.listen, front.upstream(observed.fronts[self._chosen]), wanted)
        start = Start(observed.program, conf, wanted.user, removes=in_use)
        if in_use:
            return (*changes, *((Stop(removes=True), start) if conf != observed.conf else ()))
        return (*changes, *((start,) if observed.now >= observed.child.retry_at else ()))

    def _may_do_without(self, desired: DnsSpec) -> bool:
        """Search domains and ndots are only set by a front."""
        return self._own is not None and not desired.search and desired.ndots is None

    def _needed(self, desired: DnsSpec, observed: Observed) -> bool:
        """Until it is known what the machine's own servers say, all stays as it is."""
        if not self._may_do_without(desired):
            return True
        if observed.own.answered is None:
            return observed.child.alive or bool(observed.conf)
        return not observed.own.answered

    async def apply(self, action: Action) -> None:
        try:
            await self._do(action)
        except HarnessError as error:
            self._fault = error
            raise
        self._fault = None

    async def _do(self, action: Action) -> None:
        match action:
            case Ask(subject):
                if self._own is not None:
                    await self._own.ask(subject)
            case Start(program, conf, user):
                files.write(self._conf, conf, mode=0o644)
                argv = program, f"--conf-file={self._conf}"
                port_53 = ("net_bind_service",)
                await self._dnsmasq.start(Command(NAME, argv, user=user, stop_seconds=STOP_GRACE, capabilities=port_53))
                self._dnsmasq.ready()
            case Stop():
                if self._answers is not None:
                    self._answers.stop()
                await self._dnsmasq.stop(STOP_GRACE)
                files.remove(self._conf)
            case Change(front, what):
                await self._fronts[front].apply(what)

    def release(self) -> None:
        """Lets dnsmasq outlive this process, where it is a unit."""
        self._dnsmasq.release()

    def condition(self, desired: DnsSpec | None, observed: Observed) -> Condition:
        """True once it is settled: who reaches the mesh by addresses needs no names, and all others are asked as before."""
        if not self._fault and any(action.removes for action in self.diff(desired, observed)):
            return Condition("Names", Truth.UNKNOWN, phrases.LEFT)
        if desired is None:
            text = "left alone: no DNS servers of the cluster are known, or dns.mode is off"
            return Condition("Names", Truth.TRUE, text, applies=False)
        if not self._needed(desired, observed):
            return _own(desired, observed.own)
        if observed.child.state is State.STOPPED and not self._fault and self.diff(desired, observed):
            return Condition("Names", Truth.UNKNOWN, f"{desired.domain} is about to be asked of the cluster")
        servers = ", ".join(map(str, desired.servers))
        tried = f"having {desired.domain} asked of {servers}"
        if isinstance(self._fault, UnwritableError) and self._fault.full:
            return wrong("Names", Truth.TRUE, problems.of_failure(tried, self._fault))
        status = observed.child.last_exit
        ended = "" if status is None else f": it ended with exit status {status}"
        faults = {
            f"dnsmasq {phrases.NOT_INSTALLED}": observed.program is None,
            f"for dnsmasq (dns.user) there is {phrases.NO_USER}": desired.user is None,
            # Also when its start was what failed: systemd tells only that it ended.
            f"dnsmasq does not run: {observed.taken}": not observed.child.alive and bool(observed.taken),
            self._fault.message if self._fault else "": self._fault is not None,
            f"dnsmasq does not run{ended}": not observed.child.alive,
            f"{self._chosen} does not ask it": bool(self._fronts[self._chosen].diff(desired, observed.fronts[self._chosen])),
        }
        if fault := next((text for text, is_so in faults.items() if is_so), None):
            file = self._fronts[self._chosen].file
            return wrong("Names", Truth.TRUE, problems.DNS_FAILED.found(tried, fault, file=file))
        text = f"{desired.domain} is asked of {servers}, by {self._chosen} and dnsmasq"
        answer = self._answers.follow(desired) if self._answers is not None else ""
        if answer is None:
            return Condition("Names", Truth.UNKNOWN, f"{text}; whether there is an answer is not known yet")
        if answer:
            return wrong("Names", Truth.FALSE, _unanswered(desired, answer), stands=text)
        return Condition("Names", Truth.TRUE, text)


def _port_taken(address: str) -> str:
    """Who has the port there, or on all addresses. Blocking."""
    with contextlib.suppress(HarnessError):  # the kernel does not tell; dnsmasq's own lines do
        there = [one for one in tcp_sockets.listening() if one.port == PORT]
        if there and not elsewhere((PORT,), (ipaddress.ip_address(address),), there):
            addresses = ", ".join(sorted({str(one.address) for one in there}))
            return f"another server {phrases.PORT_TAKEN}, on {addresses}, port {PORT}"
    return ""


def _unanswered(desired: DnsSpec, answer: str) -> problems.Found:
    name, server = f"{NAME_ASKED}.{desired.domain}", desired.servers[0].host
    return problems.DNS_UNANSWERED.found("asking for a name as applications do", answer, name=name, host=server)


def _own(desired: DnsSpec, own: Known) -> Condition:
    servers = ", ".join(own.subject.own) if own.subject is not None else "the machine's own name servers"
    if own.answered:
        return Condition("Names", Truth.TRUE, f"{desired.domain} is asked of {servers}, as before: they know the cluster's names")
    return Condition("Names", Truth.UNKNOWN, f"whether {servers} know the names of {desired.domain} is not known yet")
