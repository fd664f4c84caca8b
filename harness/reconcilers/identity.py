"""This machine's X.509-SVID: a small child under the proxy's uid streams it from the Workload API.

It is the same SVID that the proxy gets, since the entry selects the proxy's uid. In mode `embedded` the Workload API is ours too;
in modes `local` and `agent` it is that of a SPIRE agent which runs as a child.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from harness import problems, tasks
from harness.clock import Clock
from harness.errors import HarnessError
from harness.problems import Found
from harness.reconcilers import spire
from harness.specs import IdentitySpec
from harness.status import Condition, Truth, made_worse, wrong
from harness.supervisor import ChildState, State, Supervised
from harness.system import process, workload_api
from harness.system.spire import AGENT, Spire
from harness.system.workload_api import Svid
from harness.system.workload_api_client import FailureKind
from harness.values import SpiffeId

STOP_GRACE = 2.0
NAME = "Identity"


@dataclass(frozen=True, slots=True)
class Observed:
    server: ChildState
    stream: ChildState
    now: float
    wall: float
    svid: Svid | None = None
    others: tuple[SpiffeId, ...] = ()
    error: workload_api.Failed | None = None
    running: IdentitySpec | None = None
    spire: spire.Observed = spire.Observed()

    @property
    def overdue(self) -> bool:
        return self.svid is not None and self.wall >= self.svid.expires_at


@dataclass(frozen=True, slots=True)
class Start:
    part: str
    spec: IdentitySpec

    def __str__(self) -> str:
        return f"start the {self.part} for {self.spec.spiffe_id} on {self.spec.socket}"


@dataclass(frozen=True, slots=True)
class Stop:
    part: str

    def __str__(self) -> str:
        return f"stop the {self.part}"


SERVER, STREAM = "embedded Workload API", "identity stream"
Action = Start | Stop | spire.Action


class Identity:
    name = "identity"

    def __init__(self, processes: process.Processes, programs: Spire, clock: Clock, wake: Callable[[str], None]) -> None:
        self._clock, self._wake = clock, wake
        self._spire = spire.SpireChildren(programs, processes, clock, wake)
        self._children = {SERVER: Supervised(processes, clock, wake), STREAM: Supervised(processes, clock, wake)}
        self._reading: asyncio.Task[None] | None = None
        self._begun: process.Child | None = None
        self._running: IdentitySpec | None = None
        self._svids: tuple[Svid, ...] = ()
        self._error: workload_api.Failed | None = None

    async def observe(self) -> Observed:
        wanted = self._running.spiffe_id if self._running else None
        return Observed(
            server=self._children[SERVER].state,
            stream=self._children[STREAM].state,
            now=self._clock.now(),
            wall=self._clock.wall(),
            svid=next((s for s in self._svids if s.spiffe_id == wanted), None),
            others=tuple(s.spiffe_id for s in self._svids if s.spiffe_id != wanted),
            error=self._error,
            running=self._running,
            spire=self._spire.observe(),
        )

    def diff(self, desired: IdentitySpec | None, observed: Observed) -> tuple[Action, ...]:
        stops, starts = [], []
        changed = observed.running is not None and (desired is None or not observed.running.serves_like(desired))
        steps = spire.diff(None if changed else desired, observed.spire, observed.now, observed.overdue)
        agent = observed.spire.agent.child.alive or any(isinstance(s, spire.Start) and s.part == AGENT for s in steps)
        has_source = desired is None or desired.agent is None or agent
        for part, child in ((STREAM, observed.stream), (SERVER, observed.server)):
            wanted = desired is not None and (part == STREAM or desired.embedded is not None)
            if child.state is not State.STOPPED and (changed or not wanted):
                stops.append(Stop(part))
            elif desired is not None and wanted and has_source and not child.alive and observed.now >= child.retry_at:
                starts.append(Start(part, desired))
        return (*stops, *steps, *starts)

    async def apply(self, action: Action) -> None:
        if not isinstance(action, Start | Stop):
            self._running = None if isinstance(action, spire.Stop) else action.spec
            await self._spire.apply(action)
            return
        child = self._children[action.part]
        if isinstance(action, Stop):
            await child.stop(STOP_GRACE)
            self._running = None
            if action.part == STREAM:
                self._svids, self._error = (), None
            return
        self._running = action.spec
        command = _server_command(action.spec) if action.part == SERVER else _stream_command(action.spec)
        started = await child.start(command)
        if action.part == STREAM:
            self._reading = tasks.keep("reading the identity stream", partial(self._follow, started), self._clock)
        child.ready()

    async def _follow(self, child: process.Child) -> None:
        """When reading ends before the child does, an SVID may be lost: another child is started, which gets the present one."""
        if self._begun is not child:
            self._begun = child
            await self._read(child)
        if self._children[STREAM].child is child:
            await self._children[STREAM].give_up(STOP_GRACE)

    async def _read(self, child: process.Child) -> None:
        try:
            async for frame in workload_api.read_frames(child.stdout):
                match frame:
                    case workload_api.Delivered(svids):
                        self._svids, self._error = svids, None
                    case workload_api.Failed():
                        self._error = frame
                self._wake("identity update")
        except HarnessError as error:
            self._error = workload_api.Failed(FailureKind.TEMPORARY, error.message)
            self._wake("identity stream broken")

    def condition(self, desired: IdentitySpec | None, observed: Observed) -> Condition:
        stands = self._condition(desired, observed)
        fault = spire.condition(observed.spire, observed.now, observed.wall) if desired and desired.agent else None
        if fault is None or (stands.problem is not None and stands.truth is Truth.TRUE):
            return stands
        return made_worse(stands, fault) if stands.truth is Truth.TRUE else wrong(NAME, Truth.FALSE, fault)

    def _condition(self, desired: IdentitySpec | None, observed: Observed) -> Condition:
        svid, error = observed.svid, observed.error
        spec = desired or observed.running
        if svid is not None and observed.wall < svid.expires_at:
            text = f"{svid.spiffe_id}, valid for {svid.expires_at - observed.wall:.0f} s"
            if error is None:
                return Condition(NAME, Truth.TRUE, text)
            return wrong(NAME, Truth.TRUE, _failed(spec, error) or _not_renewed(spec, error.message), stands=text)
        if svid is not None:
            reason = f"; {error.message}" if error else ""
            return wrong(NAME, Truth.FALSE, _not_renewed(spec, f"{svid.spiffe_id} has expired{reason}"))
        if observed.others:
            return wrong(NAME, Truth.FALSE, _not_issued(spec, f"issued instead: {', '.join(map(str, observed.others))}"))
        ours = desired is not None and (desired.embedded is not None or desired.agent is not None)
        starting = ours and not observed.server.crash_loop
        if error is None or (error.kind is FailureKind.SOCKET_MISSING and starting):
            return Condition(NAME, Truth.UNKNOWN, "waiting for the first SVID")
        found = _failed(spec, error)
        return wrong(NAME, Truth.FALSE, found) if found else Condition(NAME, Truth.UNKNOWN, error.message)


def _failed(spec: IdentitySpec | None, error: workload_api.Failed) -> Found | None:
    """None for what may go well on the next try."""
    if error.kind is FailureKind.SOCKET_MISSING:
        return problems.IDENTITY_SOCKET_MISSING.found(_asked(spec), error.message, socket=spec.socket if spec else "")
    return None if error.kind is FailureKind.TEMPORARY else _not_issued(spec, error.message)


def _not_issued(spec: IdentitySpec | None, came: str) -> Found:
    identity = str(spec.spiffe_id) if spec else ""
    uid = str(spec.user.uid) if spec else ""
    return problems.IDENTITY_NOT_ISSUED.found(_asked(spec), came, identity=identity, uid=uid)


def _not_renewed(spec: IdentitySpec | None, came: str) -> Found:
    return problems.IDENTITY_EXPIRING.found(_asked(spec), came, socket=spec.socket if spec else "")


def _asked(spec: IdentitySpec | None) -> str:
    if spec is None:
        return "asking the Workload API"
    return f"asking the Workload API at {spec.socket} for {spec.spiffe_id} as uid {spec.user.uid}"


def _server_command(spec: IdentitySpec) -> process.Command:
    if spec.embedded is None:
        raise ValueError("no embedded server is configured")
    return process.python_module(
        "workload-api",
        "harness.system.workload_api_server",
        *("--socket", spec.socket, "--ca-cert", spec.embedded.ca_cert, "--ca-key", spec.embedded.ca_key),
        *("--spiffe-id", str(spec.spiffe_id), "--uid", str(spec.user.uid)),
        *("--svid-ttl", f"{round(spec.embedded.svid_ttl * 1000)}ms", "--drop-uid", "65534"),
    )


def _stream_command(spec: IdentitySpec) -> process.Command:
    return process.python_module("identity", "harness.system.workload_api_child", spec.socket, user=spec.user, piped=True)
