"""The group's readiness probes: one task each, thresholds as Kubernetes counts them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from harness import phrases, problems, tasks
from harness.clock import Clock
from harness.messages import Probe
from harness.specs import Check
from harness.status import Condition, Truth, wrong


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
    """`probes` is None before a registration has told of them."""

    probes: tuple[Check, ...] | None = None
    health: tuple[Health, ...] = ()

    @property
    def failing(self) -> str | None:
        """Why the application is not ready; None when it is. No probes: ready. It changes only with what comes back."""
        index = self.worst
        if index is None or self.probes is None:
            return None
        return f"{self.probes[index].probe.tried}: {self.health[index].why or 'has not passed often enough'}"

    @property
    def worst(self) -> int | None:
        """The number of the probe to name: one that has failed before one that has not passed yet."""
        unready = (index for index, health in enumerate(self.health) if not health.ready)
        return min(unready, key=lambda index: self.health[index].failed == 0, default=None)

    @property
    def decided(self) -> bool:
        """False while the probes say neither that it is ready nor that it is not."""
        return self.probes is not None and (not self._unready or any(h.failed for h in self._unready))

    @property
    def _unready(self) -> tuple[Health, ...]:
        return tuple(h for h in self.health if not h.ready)


@dataclass(frozen=True, slots=True)
class Watch:
    probes: tuple[Check, ...] | None

    def __str__(self) -> str:
        count = len(self.probes or ())
        return f"run {phrases.counted(count, 'readiness probe')}"


class Probes:
    name = "probes"

    def __init__(self, check: Callable[[Check], Awaitable[str | None]], clock: Clock, wake: Callable[[str], None]) -> None:
        self._check, self._clock, self._wake = check, clock, wake
        self._probes: tuple[Check, ...] | None = None
        self._health: list[Health] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def observe(self) -> Observed:
        return Observed(self._probes, tuple(self._health))

    def diff(self, desired: tuple[Check, ...] | None, observed: Observed) -> tuple[Watch, ...]:
        return (Watch(desired),) if desired != observed.probes else ()

    async def apply(self, action: Watch) -> None:
        for task in self._tasks:
            task.cancel()
        self._probes = action.probes
        checks = action.probes or ()
        self._health = [Health() for _ in checks]
        self._tasks = [tasks.keep(f"the probe {c.probe}", partial(self._run, i, c), self._clock) for i, c in enumerate(checks)]

    async def _run(self, index: int, check: Check) -> None:
        probe = check.probe
        await self._clock.sleep(probe.initial_delay_seconds)
        while True:
            before = self._health[index]
            after = self._health[index] = count(before, probe, await self._check(check))
            if after.ready is not before.ready or after.why != before.why or not (after.ready or after.last):
                self._wake("probe result")  # while it fails each time, since the status tells how often
            await self._clock.sleep(probe.period_seconds)

    def condition(self, desired: tuple[Check, ...] | None, observed: Observed) -> Condition:
        if desired is None:
            return Condition("Application", Truth.UNKNOWN, "probes start with the registration")
        if any(health.last is None for health in observed.health):
            return Condition("Application", Truth.UNKNOWN, "waiting for the first result of each probe")
        if observed.worst is not None and observed.probes:
            return _failed(observed.probes, observed.health, observed.worst)
        count = len(observed.probes or ())
        text = phrases.counted(count, "probe passes", "probes pass") if count else "no probes"
        return Condition("Application", Truth.TRUE, text, applies=count > 0)


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
