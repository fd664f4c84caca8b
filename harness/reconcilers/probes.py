"""The application: the group's readiness probes, one task each, thresholds as Kubernetes counts them; and where it listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from harness import phrases, problems, tasks
from harness.clock import Clock
from harness.errors import HarnessError
from harness.listeners import Elsewhere, Listener, elsewhere
from harness.probe import Probe
from harness.specs import ApplicationSpec, Check
from harness.status import Condition, Truth, wrong

AGAIN_SECONDS = 1.0
"""Until a probe has passed once: an application that starts a moment after the harness need not wait for a whole period."""
LISTENERS_SECONDS = 2.0
"""Between two looks at where the application listens, of which the kernel tells nothing by itself. A look takes 0.1 ms."""


@dataclass(frozen=True, slots=True)
class Health:
    """Where one probe stands. Not ready until it has passed; `run` counts equal results in a row, `passed` and `failed` all.

    `why`: what came back last, unless it passed.
    """

    ready: bool = False
    last: bool | None = None
    run: int = 0
    why: str = "not checked yet"
    passed: int = 0
    failed: int = 0


def count(health: Health, probe: Probe, failure: str | None) -> Health:
    """The standing after one more check."""
    passed = failure is None
    run = health.run + 1 if passed is health.last else 1
    ready = health.ready
    if passed and run >= probe.success_threshold:
        ready = True
    elif not passed and (run >= probe.failure_threshold or not health.ready):
        ready = False
    passes, failures = health.passed + passed, health.failed + (not passed)
    return Health(ready, passed, run, failure or "", passes, failures)


@dataclass(frozen=True, slots=True)
class Observed:
    """`spec` is None before a registration has told of it. `elsewhere`: ports of the group at which peers reach nobody; None
    before the first look. `untold`: why the kernel does not tell where the application listens; empty when it does.
    """

    spec: ApplicationSpec | None = None
    health: tuple[Health, ...] = ()
    elsewhere: tuple[Elsewhere, ...] | None = ()
    untold: str = ""

    @property
    def probes(self) -> tuple[Check, ...]:
        return self.spec.checks if self.spec is not None else ()

    @property
    def failing(self) -> str | None:
        """Why the application is not ready; None when it is. No probes: ready. It changes only with what comes back."""
        if self.elsewhere:
            return str(self.elsewhere[0])
        index = self.worst
        if index is None:
            return None
        return f"{self.probes[index].probe.tried}: {self.health[index].why or 'has not passed often enough'}"

    @property
    def worst(self) -> int | None:
        """The number of the probe to name: one that has failed before one that has not passed yet."""
        unready = (index for index, health in enumerate(self.health) if not health.ready)
        return min(unready, key=lambda index: self.health[index].failed == 0, default=None)

    @property
    def decided(self) -> bool:
        """False while nothing says that it is ready, and nothing that it is not."""
        if self.elsewhere:
            return True
        if self.spec is None or self.elsewhere is None:
            return False
        return not self._unready or any(h.failed for h in self._unready)

    @property
    def _unready(self) -> tuple[Health, ...]:
        return tuple(h for h in self.health if not h.ready)


@dataclass(frozen=True, slots=True)
class Watch:
    spec: ApplicationSpec | None

    def __str__(self) -> str:
        count = len(self.spec.checks) if self.spec else 0
        return f"run {phrases.counted(count, 'readiness probe')}"


class Probes:
    name = "probes"

    def __init__(
        self,
        check: Callable[[Check], Awaitable[str | None]],
        listeners: Callable[[], tuple[Listener, ...]],
        clock: Clock,
        wake: Callable[[str], None],
    ) -> None:
        self._check, self._listeners, self._clock, self._wake = check, listeners, clock, wake
        self._spec: ApplicationSpec | None = None
        self._health: list[Health] = []
        self._elsewhere: tuple[Elsewhere, ...] | None = ()
        self._untold = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def observe(self) -> Observed:
        return Observed(self._spec, tuple(self._health), self._elsewhere, self._untold)

    def diff(self, desired: ApplicationSpec | None, observed: Observed) -> tuple[Watch, ...]:
        return (Watch(desired),) if desired != observed.spec else ()

    async def apply(self, action: Watch) -> None:
        for task in self._tasks:
            task.cancel()
        self._spec = action.spec
        self._elsewhere = None if action.spec is not None and action.spec.ports else ()
        self._untold = ""
        checks = action.spec.checks if action.spec else ()
        self._health = [Health() for _ in checks]
        self._tasks = [tasks.keep(f"the probe {c.probe}", partial(self._run, i, c), self._clock) for i, c in enumerate(checks)]
        if action.spec is not None and action.spec.ports:
            watch = partial(self._watch_listeners, action.spec)
            self._tasks.append(tasks.keep("the look at where the application listens", watch, self._clock))

    async def _watch_listeners(self, spec: ApplicationSpec) -> None:
        while True:
            before = (self._elsewhere, self._untold)
            try:
                self._elsewhere = elsewhere(spec.ports, spec.addresses, await asyncio.to_thread(self._listeners))
                self._untold = ""
            except HarnessError as error:  # what was found before stays; without it the probes alone decide
                self._elsewhere = self._elsewhere or ()
                self._untold = error.message
            if before != (self._elsewhere, self._untold):
                self._wake(self._where())
            await self._clock.sleep(LISTENERS_SECONDS)

    def _where(self) -> str:
        if self._untold:
            return "the kernel does not tell where the application listens"
        return "the application listens elsewhere" if self._elsewhere else "the application listens where peers look"

    async def _run(self, index: int, check: Check) -> None:
        probe = check.probe
        await self._clock.sleep(probe.initial_delay_seconds)
        while True:
            before = self._health[index]
            after = self._health[index] = count(before, probe, await self._check(check))
            if after.ready is not before.ready or after.why != before.why or not (after.ready or after.last):
                self._wake("probe result")  # while it fails each time, since the status tells how often
            waits = probe.period_seconds if after.passed else min(AGAIN_SECONDS, probe.period_seconds)
            await self._clock.sleep(waits)

    def condition(self, desired: ApplicationSpec | None, observed: Observed) -> Condition:
        if desired is None:
            return Condition("Application", Truth.UNKNOWN, "probes start when this machine is registered and has an address")
        if observed.elsewhere:
            return wrong("Application", Truth.FALSE, _unreachable(observed.elsewhere[0], desired))
        if observed.elsewhere is None:
            return Condition("Application", Truth.UNKNOWN, "waiting for the first look at where it listens")
        if any(health.last is None for health in observed.health):
            return Condition("Application", Truth.UNKNOWN, "waiting for the first result of each probe")
        if observed.worst is not None:
            return _failed(observed.probes, observed.health, observed.worst)
        count = len(observed.probes)
        text = phrases.counted(count, "probe passes", "probes pass") if count else "no probes"
        if observed.untold:
            text += f"; it is unknown where the application listens: {observed.untold}"
        return Condition("Application", Truth.TRUE, text, applies=count > 0)


def _unreachable(found: Elsewhere, spec: ApplicationSpec) -> problems.Found:
    peers = ", ".join(map(str, spec.addresses))
    came = f"{found}, and peers call it at {peers}"
    return problems.APPLICATION_ELSEWHERE.found("the look at where the application listens", came, port=found.port)


def _failed(checks: tuple[Check, ...], healths: tuple[Health, ...], index: int) -> Condition:
    check, health = checks[index], healths[index]
    probe = check.probe
    one, more = ("pass", "passes") if health.last else ("failure", "failures")
    counts = f"probe {index + 1} of {len(checks)}, {phrases.counted(health.run, one, more)}"
    key = f"probes.commands.{probe.exec_.name}" if probe.exec_ is not None else ""
    found = problems.PROBE_FAILED.found(
        probe.tried,
        health.why or "has not passed often enough",
        port=probe.port or "",
        key=key,
        command=check.command or (),
        uid=check.user.uid if check.user else "",
    )
    return wrong("Application", Truth.FALSE, found, counts=counts)
