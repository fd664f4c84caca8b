"""The proxy as a child under its own uid. It counts as up when its metrics show a certificate, never by /ready alone.

(linkerd2-proxy never repeats its very first connect to the Workload API. If that one failed it lives on without a certificate and
without listeners, and answers /ready with 200: that is how it is told from one that waits. It is ended and started again.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from harness import tasks
from harness.clock import Clock
from harness.errors import InternalError, UnavailableError
from harness.problems import Found
from harness.reconcilers import proxy_condition, proxy_program
from harness.reconcilers.proxy_program import InUse, Program, fingerprint
from harness.specs import ProxySpec
from harness.status import Condition
from harness.supervisor import ChildState, Launcher, Running, State, Supervised
from harness.system import files, process

POLL_STARTING, POLL_SHORTEST, POLL_LONGEST = 0.05, 0.2, 30.0
NAME = "proxy"
KILL_RESERVE = 2.0  # seconds after the proxy's own grace period
LOST_GRACE = 0.1
BLIND_SECONDS = 60.0  # longer than every pause after a bug


@dataclass(frozen=True, slots=True)
class Observed:
    """`certified_until`: epoch seconds, 0 without a certificate. `taken`: ports of ours that others listened on at our start."""

    child: ChildState = ChildState()
    running: str | None = None
    """The fingerprint of the specification that it was started with."""
    pid: int | None = None
    program: str | None = None
    """The binary that runs."""
    in_use: str = ""
    """The binary that a start would take where the configuration names none."""
    replaced: str = ""
    """What runs, where a start would now take another binary."""
    certified_until: float = 0.0
    taken: tuple[int, ...] = ()
    error: UnavailableError | None = None  # why it could not be started
    refused: Found | None = None
    grace: float = KILL_RESERVE
    may_restart: bool = False
    lost: bool = False
    """It runs and will never have a certificate."""
    now: float = 0.0
    wall: float = 0.0

    @property
    def certified(self) -> bool:
        return self.child.alive and self.certified_until > self.wall and not self.may_restart


@dataclass(frozen=True, slots=True)
class Start:
    spec: ProxySpec
    path: str

    def __str__(self) -> str:
        return f"start {self.path} as uid {self.spec.user.uid}"


@dataclass(frozen=True, slots=True)
class Stop:
    why: str
    grace: float

    def __str__(self) -> str:
        return f"stop the proxy ({self.why})"


@dataclass(frozen=True, slots=True)
class GiveUp:
    def __str__(self) -> str:
        return "end the proxy, whose first connect to the Workload API failed: it would not try again"


Action = Start | Stop | GiveUp


class Runners(Launcher[Running], Protocol):
    async def find(self, name: str) -> Running | None:
        """A proxy that an earlier daemon has left running, to be adopted."""


Gate = Callable[[Path], Found | None]
"""Why a binary must not be started."""


class ProxyAdmin(Protocol):
    async def certificate_expiry(self, port: int) -> float:
        """Epoch seconds when the proxy's certificate ends; 0 without one or without an answer."""

    async def says_ready(self, port: int) -> bool: ...


class Proxy:
    name = "proxy"

    def __init__(
        self,
        runners: Runners,
        admin: ProxyAdmin,
        gate: Gate,
        in_use: InUse,
        record: Path,
        clock: Clock,
        wake: Callable[[str], None],
    ) -> None:
        self._runners, self._admin, self._gate, self._in_use = runners, admin, gate, in_use
        self._record, self._clock, self._wake = record, clock, wake
        self._program: Program | None = None
        self._refused: Found | None = None
        self._supervised: Supervised[Running] = Supervised(runners, clock, wake)
        self._running: str | None = None
        self._polling: asyncio.Task[None] | None = None
        self._certified_until = 0.0
        self._taken: tuple[int, ...] = ()
        self._error: UnavailableError | None = None
        self._grace = KILL_RESERVE
        self._may_restart = self._lost = False

    async def adopt(self, admin_port: int) -> bool:
        """Takes over the proxy of the daemon before this one. If its binary was replaced, the next cycle starts it again."""
        child = await self._runners.find(NAME)
        if child is None:
            return False
        left = files.read_json(self._record)
        self._program = proxy_program.recorded(left) if left.get("pid") == child.pid else None
        same = self._program is not None and not self._program.replaced(self._in_use)
        self._running = str(left.get("fingerprint", "")) if same else "replaced"
        self._grace = float(left.get("grace") or KILL_RESERVE)
        self._supervised.adopt(child)
        self._certified_until = await self._admin.certificate_expiry(admin_port)
        self._watch_certificate(admin_port)
        return True

    def release(self) -> None:
        """Leaves the proxy running for the daemon after this one."""
        if self._polling is not None:
            self._polling.cancel()
        self._supervised.release()

    def stale(self, desired: ProxySpec | None) -> bool:
        """Whether it serves, but is not what it should be: it must be started again, as soon as that is allowed."""
        if desired is None or desired.waits_for or self._may_restart:
            return False
        return self._supervised.state.state is State.RUNNING and self._running != fingerprint(desired)

    def restart(self) -> None:
        """Has the next cycle stop it and start it again."""
        self._running, self._may_restart = "to be restarted", True

    async def observe(self) -> Observed:
        child = self._supervised.child
        program = self._program if child else None
        return Observed(
            child=self._supervised.state,
            running=self._running,
            pid=child.pid if child else None,
            program=program.path if program else None,
            in_use=str(self._in_use()),
            replaced=program.replaced(self._in_use) if program else "",
            certified_until=self._certified_until if child else 0.0,
            taken=self._taken,
            error=self._error,
            refused=self._refused,
            grace=self._grace,
            may_restart=self._may_restart,
            lost=self._lost,
            now=self._clock.now(),
            wall=self._clock.wall(),
        )

    def diff(self, desired: ProxySpec | None, observed: Observed) -> tuple[Action, ...]:
        child, running = observed.child, observed.running
        if desired is None:
            return (Stop("not wanted", observed.grace),) if child.state is not State.STOPPED else ()
        start = Start(desired, desired.path or observed.in_use)
        if child.alive and running is not None:
            if running != fingerprint(desired) and (observed.may_restart or child.state is State.STARTING):
                return Stop("its configuration or binary changed", desired.shutdown_grace + KILL_RESERVE), start
            if observed.lost:
                return (GiveUp(),)
            if child.state is State.STARTING and observed.now - child.since > desired.start_timeout:
                return Stop("no certificate in time", KILL_RESERVE), start
            return ()
        return (start,) if not desired.waits_for and observed.now >= child.retry_at else ()

    async def apply(self, action: Action) -> None:
        if not isinstance(action, Start):
            if self._polling is not None:
                self._polling.cancel()
            await (self._supervised.stop(action.grace) if isinstance(action, Stop) else self._supervised.give_up(LOST_GRACE))
            return
        spec = action.spec
        self._may_restart = self._lost = False
        self._running, self._certified_until, self._error = fingerprint(spec), 0.0, None
        self._taken = tuple(port for port in spec.ports if process.port_taken(port))
        self._program = program = proxy_program.find(spec.path, self._in_use)
        self._refused = await asyncio.to_thread(self._gate, Path(program.path))
        if self._taken or self._refused:
            self._supervised.fail(NAME)
            return
        stop_seconds = spec.shutdown_grace + KILL_RESERVE
        command = process.Command(NAME, (program.path,), dict(spec.env), spec.user, stop_seconds=stop_seconds)
        self._grace = stop_seconds
        try:
            child = await self._supervised.start(command)
        except UnavailableError as error:
            self._error = error
            return
        self._watch_certificate(spec.admin_port)
        # A little after the timeout, or the cycle would find it not over.
        asyncio.get_running_loop().call_later(spec.start_timeout + 0.01, self._wake, "the proxy should have a certificate by now")
        left = {"pid": child.pid, "fingerprint": self._running, "grace": stop_seconds, **program.record()}
        files.write_json(self._record, left, mode=0o600)  # last: a full disk does not keep the proxy from serving

    def _watch_certificate(self, admin_port: int) -> None:
        if self._polling is not None:
            self._polling.cancel()
        self._polling = tasks.keep("the look at the proxy's certificate", partial(self._poll, admin_port), self._clock)

    async def _poll(self, admin_port: int) -> None:
        """Watches the certificate for as long as the child lives."""
        while self._supervised.state.alive:
            expiry = await self._look_at_certificate(admin_port)
            if expiry > self._clock.wall() and self._supervised.state.state is State.STARTING:
                self._certified_until = expiry
                self._supervised.ready()
                self._wake("proxy certified")
            elif (expiry > 0) != (self._certified_until > 0):
                self._wake("proxy certificate changed")
            self._certified_until = expiry or self._certified_until
            if not self._certified_until and await self._never_certified(admin_port):
                self._lost = True
                self._wake("the proxy is lost")
                return
            starting = self._supervised.state.state is State.STARTING
            # Twice in what is left of the certificate: a renewal is seen before the old one would have ended.
            left = (self._certified_until - self._clock.wall()) / 2
            await self._clock.sleep(POLL_STARTING if starting else min(max(left, POLL_SHORTEST), POLL_LONGEST))

    async def _look_at_certificate(self, admin_port: int) -> float:
        try:
            with tasks.unexpected("the look at the proxy's certificate"):
                return await self._admin.certificate_expiry(admin_port)
        except InternalError:
            if self._certified_until:  # what cannot be looked at counts as it was, until the next look
                self._certified_until = max(self._certified_until, self._clock.wall() + BLIND_SECONDS)
            raise

    async def _never_certified(self, admin_port: int) -> bool:
        """Ready in its own eyes, and even after that without a certificate."""
        return await self._admin.says_ready(admin_port) and not await self._admin.certificate_expiry(admin_port)

    def condition(self, desired: ProxySpec | None, observed: Observed) -> Condition:
        return proxy_condition.of(desired, observed)
