"""What becomes of a child: a pure state table, and the small object that drives one child by it.

STOPPED ──start──► STARTING ──ready──► RUNNING
   ▲                  │ exited, failed    │ exited
   │ stopped          ▼                   ▼
STOPPING ◄──stop── BACKOFF ──start──► STARTING      (a stable run forgets the exits before it)
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from harness import tasks
from harness.backoff import Backoff
from harness.clock import Clock
from harness.errors import UnavailableError
from harness.system import process

BACKOFF = Backoff(first=0.1, most=15.0)
STABLE_SECONDS = 10.0
CRASH_LOOP_EXITS = 3


class State(enum.Enum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"


class Event(enum.Enum):
    START = "start"
    READY = "ready"
    STABLE = "stable"
    EXITED = "exited"
    FAILED = "failed"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class ChildState:
    """`exits`: unplanned exits since the last stable run; `restarts`: since the daemon's start. `failures`: starts that could not
    even be tried, since it last ran. `retry_at`: earliest moment of the next start (Clock.now)."""

    state: State = State.STOPPED
    since: float = 0.0
    exits: int = 0
    retry_at: float = 0.0
    last_exit: int | None = None
    restarts: int = 0
    failures: int = 0

    @property
    def alive(self) -> bool:
        return self.state in (State.STARTING, State.RUNNING, State.STOPPING)

    @property
    def crash_loop(self) -> bool:
        return self.exits >= CRASH_LOOP_EXITS


def advance(child: ChildState, event: Event, now: float, exit_code: int | None = None) -> ChildState:
    """The state after `event`; an event that means nothing in a state changes nothing."""
    match child.state, event:
        case ((State.STOPPED | State.BACKOFF), Event.START):
            return replace(child, state=State.STARTING, since=now)
        case State.STARTING, Event.READY:
            return replace(child, state=State.RUNNING, since=now, failures=0)
        case State.RUNNING, Event.STABLE:
            return replace(child, exits=0)
        case State.STARTING, Event.FAILED:
            failures = child.failures + 1
            retry_at = now + BACKOFF.pause(child.exits + failures)
            return replace(child, state=State.BACKOFF, since=now, retry_at=retry_at, failures=failures)
        case ((State.STARTING | State.RUNNING), Event.EXITED):
            exits = child.exits + 1
            return ChildState(State.BACKOFF, now, exits, now + BACKOFF.pause(exits), exit_code, child.restarts + 1)
        case ((State.STARTING | State.RUNNING), Event.STOP):
            return replace(child, state=State.STOPPING, since=now)
        case State.STOPPING, Event.EXITED:
            return ChildState(State.STOPPED, now, last_exit=exit_code, restarts=child.restarts)
        case State.BACKOFF, Event.STOP:
            return ChildState(State.STOPPED, now, last_exit=child.last_exit, restarts=child.restarts)
    return child


class Running(Protocol):
    """A child that runs; its own process or one that outlives us."""

    name: str
    pid: int

    async def wait(self) -> int: ...
    async def stop(self, grace: float) -> int: ...


Kind = TypeVar("Kind", bound=Running, covariant=True)


class Launcher(Protocol[Kind]):
    async def spawn(self, command: process.Command) -> Kind:
        """Raises UnavailableError if the program cannot be started."""


class Supervised(Generic[Kind]):
    """One child. `on_change` is called whenever its state changed, and again when a backoff has passed."""

    def __init__(self, processes: Launcher[Kind], clock: Clock, on_change: Callable[[str], None]) -> None:
        self._processes, self._clock, self._on_change = processes, clock, on_change
        self._watch: asyncio.Task[None] | None = None
        self.child: Kind | None = None
        self.state = ChildState()

    def _advance(self, event: Event, exit_code: int | None = None) -> None:
        self.state = advance(self.state, event, self._clock.now(), exit_code)

    async def start(self, command: process.Command) -> Kind:
        """Raises UnavailableError if it cannot be started; the next try waits."""
        try:
            self.child = await self._processes.spawn(command)
        except UnavailableError:
            self.fail(command.name)
            raise
        self._advance(Event.START)
        self._watch = self._keep(self._wait, self.child)
        return self.child

    def adopt(self, child: Kind) -> None:  # type: ignore[misc]  # a parameter, but of what this object itself would make
        """Takes over a child that runs already."""
        self.child = child
        self.state = ChildState(State.RUNNING, self._clock.now())
        self._watch = self._keep(self._wait, child)

    def release(self) -> None:
        """Forgets the child without ending it."""
        if self._watch is not None:
            self._watch.cancel()
        self.child, self.state = None, ChildState()

    def ready(self) -> None:
        self._advance(Event.READY)
        if self.child is not None and self.state.exits:
            self._keep(self._settle, self.child)

    async def _settle(self, child: Running) -> None:
        await self._clock.sleep(STABLE_SECONDS)
        if self.child is child:
            self._advance(Event.STABLE)
            self._on_change(f"{child.name} runs steadily")

    def fail(self, name: str) -> None:
        """A start that cannot even be tried; the next one waits like after an exit."""
        self._advance(Event.START)
        self._advance(Event.FAILED)
        self._on_change(f"{name} cannot be started")
        self._watch = self._waiting(name)

    async def give_up(self, grace: float) -> None:
        """Ends a child that is of no use; it counts as one that exited by itself, so that the next start waits."""
        child, watch = self.child, self._watch
        if child is not None and watch is not None:
            await child.stop(grace)
            await watch

    async def stop(self, grace: float) -> None:
        """Returns when it is gone."""
        self._advance(Event.STOP)
        child, watch = self.child, self._watch
        if child is not None and watch is not None:
            await child.stop(grace)
            await watch
        elif watch is not None:
            watch.cancel()  # what is left of a backoff
            self._on_change("a backoff is cut short")

    async def _wait(self, child: Running) -> None:
        code = await child.wait()
        self.child = None
        self._exited(child.name, code)

    def _exited(self, name: str, code: int | None) -> None:
        self._advance(Event.EXITED, code)
        self._on_change(f"{name} exited")
        if self.state.state is State.BACKOFF:
            self._watch = self._waiting(name)

    def _keep(self, work: Callable[[Running], Coroutine[Any, Any, None]], child: Running) -> asyncio.Task[None]:
        return tasks.keep(f"the watch over {child.name}", partial(work, child), self._clock)

    def _waiting(self, name: str) -> asyncio.Task[None]:
        return tasks.keep(f"the wait for the next start of {name}", partial(self._back_off, name), self._clock)

    async def _back_off(self, name: str) -> None:
        await self._clock.sleep(max(0.0, self.state.retry_at - self._clock.now()))
        self._on_change(f"{name} may start again")
