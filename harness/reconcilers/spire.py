"""SPIRE's server and agent as children: server → entry → agent on the way up, agent → server on the way down.

A server reads its entries when it starts, and then every 5 s. So it is started again after it has taken a new entry, and before
there is an agent. The agent then gets its entry by its first question, and the server never stops while an agent asks it.

Everything that they keep is made again when it is lost, so each fault heals by a fresh start: a key pair instead of a token
attests the agent, the entry has a fixed id, and the signing certificate is read again whenever a server starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from harness import phrases, problems, tasks
from harness.backoff import Backoff
from harness.clock import Clock
from harness.errors import HarnessError
from harness.problems import Found
from harness.specs import IdentitySpec
from harness.supervisor import ChildState, State, Supervised
from harness.system import process, spire_api, spire_log
from harness.system.spire import AGENT, SERVER, PreparationError, Prepared, Spire, path_key, stamp_of

POLL = 0.01
START_SECONDS = 90.0  # an agent gives up by itself after 60 s
OVERDUE_SECONDS = 15.0
ENTRY_BACKOFF = Backoff(first=0.5, most=15.0)
STOP_GRACE = 3.0
_ENTRY = "entry"


@dataclass(frozen=True, slots=True)
class Part:
    """One of the two. `socket`: whether its socket is there.

    `error`: the last one that it logged since its start, or in an earlier start while it keeps exiting.
    """

    child: ChildState = ChildState()
    pid: int | None = None
    prepared: Prepared | None = None
    stamp: tuple[tuple[str, int, int], ...] = ()
    socket: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """`entry_made`: since the server's last start."""

    server: Part = Part()
    agent: Part = Part()
    entry_made: bool = False
    entry_retry_at: float = 0.0
    fault: Found | None = None


@dataclass(frozen=True, slots=True)
class Start:
    part: str
    why: str
    spec: IdentitySpec

    def __str__(self) -> str:
        return f"start {self.part}" + (f" again: {self.why}" if self.why else "")


@dataclass(frozen=True, slots=True)
class MakeEntry:
    spec: IdentitySpec

    def __str__(self) -> str:
        return f"entry: {self.spec.spiffe_id} for uid {self.spec.user.uid}"


@dataclass(frozen=True, slots=True)
class Stop:
    part: str

    def __str__(self) -> str:
        return f"stop {self.part}"


Action = Start | MakeEntry | Stop


def diff(desired: IdentitySpec | None, observed: Observed, now: float, overdue: bool) -> tuple[Action, ...]:
    """`overdue`: there was an SVID, and it has run out."""
    actions: list[Action] = []
    wanted = {AGENT: bool(desired and desired.agent), SERVER: bool(desired and desired.server)}
    for name, part in ((AGENT, observed.agent), (SERVER, observed.server)):
        if part.child.state is not State.STOPPED and not wanted[name]:
            actions.append(Stop(name))
    if desired is None:
        return tuple(actions)
    if wanted[SERVER]:
        server = observed.server
        why = _restart(server, now, overdue) or _new_anchors(server, desired)
        if why or (not server.child.alive and now >= server.child.retry_at):
            return (*actions, Start(SERVER, why, desired))
        if server.child.state is not State.RUNNING:
            return tuple(actions)
        if not observed.entry_made:
            if now < observed.entry_retry_at:
                return tuple(actions)
            actions.append(MakeEntry(desired))
        if server.prepared is not None and server.prepared.cold:
            return (*actions, Start(SERVER, "it begins with the new entry", desired))
    if wanted[AGENT]:
        agent = observed.agent
        why = _restart(agent, now, overdue) or _new_origin(agent, observed.server, desired)
        if why or (not agent.child.alive and now >= agent.child.retry_at):
            actions.append(Start(AGENT, why, desired))
    return tuple(actions)


def _restart(part: Part, now: float, overdue: bool) -> str:
    """Why a part that runs must be started again; empty if it need not."""
    if not part.child.alive or part.prepared is None:
        return ""
    if part.stamp != part.prepared.stamp:
        return "its files have changed"
    age = now - part.child.since
    if part.child.state is State.STARTING:
        return "its socket does not come" if age > START_SECONDS else ""
    if not part.socket:
        return "its socket is gone"
    return "the SVID has run out" if overdue and age > OVERDUE_SECONDS else ""


def _new_anchors(part: Part, desired: IdentitySpec) -> str:
    different = part.child.alive and part.prepared is not None and part.prepared.anchors != desired.anchors_pem
    return "the trust anchors have changed" if different else ""


def _new_origin(agent: Part, server: Part, desired: IdentitySpec) -> str:
    """Our own agent knows our server by what that began with; what it knew before does not lead to another one."""
    if desired.server is None:
        return _new_anchors(agent, desired)
    if not agent.child.alive or agent.prepared is None or server.prepared is None:
        return ""
    return "its server has been started again" if agent.prepared.origin != server.prepared.origin else ""


def condition(observed: Observed, now: float, wall: float) -> Found | None:
    """What is wrong, worst first."""
    if observed.fault is not None:
        return observed.fault
    for name, part in ((SERVER, observed.server), (AGENT, observed.agent)):
        late = part.child.state is State.STARTING and now - part.child.since > 5.0
        if part.child.crash_loop or part.child.state is State.BACKOFF or (late and part.error):
            exits = part.child.exits
            state = f"has exited {phrases.counted(exits, 'time')}" if exits and not late else "is not ready"
            came = f"it {state}, with {part.error or 'no error in its log'}"
            if "attest" in part.error.lower():
                return problems.SPIRE_NOT_ATTESTED.found(f"running {name}", came)
            return problems.SPIRE_FAILING.found(f"running {name}", came, key=path_key(name))
    signing = observed.server.prepared
    if signing is None or not observed.server.child.alive:
        return None
    tried = f"reading {signing.file}"
    if (signing.ends - wall) * 3 < signing.ends - signing.begins:
        hours = (signing.ends - wall) / 3600
        left = f"{hours / 24:.0f} days" if hours > 48 else f"{hours:.1f} hours"
        return problems.IDENTITY_CA_EXPIRING.found(tried, f"its certificate ends in {left}", file=signing.file)
    if signing.root:
        return problems.IDENTITY_ROOT_KEY.found(tried, "it is a root's own certificate and key", file=signing.file)
    return None


class SpireChildren:
    """Carries the actions out, one after the other until one raises HarnessError; a socket that comes later wakes the cycle."""

    def __init__(self, spire: Spire, processes: process.Processes, clock: Clock, wake: Callable[[str], None]) -> None:
        self._spire, self._clock, self._wake = spire, clock, wake
        self._children = {name: Supervised(processes, clock, wake) for name in (SERVER, AGENT)}
        self._prepared: dict[str, Prepared] = {}
        self._errors = {SERVER: "", AGENT: ""}
        self._entry_made, self._entry_retry_at, self._entry_failures = False, 0.0, 0
        self._faults: dict[str, Found] = {}
        """By what failed. What succeeds takes its own away: another part does not hide it."""
        self._spec: IdentitySpec | None = None

    def observe(self) -> Observed:
        return Observed(
            self._part(SERVER, self._spire.admin_socket),
            self._part(AGENT, Path(self._spec.socket) if self._spec else None),
            self._entry_made,
            self._entry_retry_at,
            next((self._faults[name] for name in (SERVER, _ENTRY, AGENT) if name in self._faults), None),
        )

    def _part(self, name: str, socket: Path | None) -> Part:
        supervised = self._children[name]
        return Part(
            child=supervised.state,
            pid=supervised.child.pid if supervised.child else None,
            prepared=self._prepared.get(name),
            stamp=stamp_of(self._spec, name) if self._spec else (),
            socket=socket is not None and socket.is_socket(),
            error=self._errors[name],
        )

    async def apply(self, action: Action) -> None:
        match action:
            case Stop(name):
                await self._children[name].stop(STOP_GRACE)
                if name == SERVER or not self._children[SERVER].state.alive:
                    self._spire.remove()
                    self._faults.clear()
            case MakeEntry(spec):
                await self._make_entry(spec)
            case Start(name, _, spec):
                self._spec = spec
                await self._start(name, spec)

    async def _start(self, name: str, spec: IdentitySpec) -> None:
        supervised = self._children[name]
        try:
            prepared = await self._prepare(name, spec)
        except PreparationError as error:
            self._faults[name] = error.found
            if supervised.state.alive and (running := self._prepared.get(name)):
                # What runs goes on with what it has; the next change is another chance. An agent of a cold server waits 5 s.
                stamp = stamp_of(spec, name)
                self._prepared[name] = replace(running, stamp=stamp, anchors=spec.anchors_pem, cold=False)
            else:
                supervised.fail(name)
            raise
        self._faults.pop(name, None)
        if supervised.state.alive:
            await supervised.stop(STOP_GRACE)
        self._prepared[name] = prepared
        if not supervised.state.exits:  # else the next of its starts has most likely the same reason to fail
            self._errors[name] = ""
        if name == SERVER:
            self._entry_made, self._entry_retry_at, self._entry_failures = False, 0.0, 0
        child = await supervised.start(prepared.command)
        socket = self._spire.admin_socket if name == SERVER else Path(spec.socket)
        tasks.keep(f"the log of {name}", partial(self._read_log, name, child), self._clock)
        tasks.keep(f"the wait for {name}", partial(self._await_socket, name, child, socket), self._clock)

    async def _prepare(self, name: str, spec: IdentitySpec) -> Prepared:
        if name == SERVER and spec.server is not None:
            return await self._spire.prepare_server(spec, spec.server, self._clock.wall())
        if name == AGENT and spec.agent is not None:
            return await self._spire.prepare_agent(spec, spec.agent)
        raise ValueError(f"no {name} is configured")

    async def _make_entry(self, spec: IdentitySpec) -> None:
        try:
            await self._spire.make_entry(spec)
        except HarnessError as error:
            tried = f"making the entry for {spec.spiffe_id}"
            self._faults[_ENTRY] = problems.of_failure(tried, error, problems.SPIRE_FAILING, key="identity.spire")
            self._entry_failures += 1
            pause = ENTRY_BACKOFF.pause(self._entry_failures)
            self._entry_retry_at = self._clock.now() + pause
            tasks.keep("the wait for SPIRE's entry", partial(self._wake_later, pause), self._clock)
            raise
        self._faults.pop(_ENTRY, None)
        self._entry_made, self._entry_failures = True, 0

    async def _wake_later(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._wake("another try")

    async def _await_socket(self, name: str, child: process.Child, socket: Path) -> None:
        supervised = self._children[name]
        while supervised.child is child:
            if spire_api.answers(socket):
                supervised.ready()
                self._wake(f"{name} answers")
                return
            await self._clock.sleep(POLL)

    async def _read_log(self, name: str, child: process.Child) -> None:
        logger = structlog.get_logger()
        async for line in process.whole_lines(child.stdout):
            parsed = spire_log.parse(line)
            getattr(logger, parsed.level)(parsed.text, component=name)
            if parsed.failure:
                self._errors[name] = parsed.text
                if self._children[name].state.state is State.STARTING:
                    self._wake(f"{name} tells of an error")
