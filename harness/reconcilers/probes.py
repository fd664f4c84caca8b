"""The group's readiness probes: one task each, thresholds as Kubernetes counts them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from harness import problems, tasks
from harness.clock import Clock
from harness.messages import Probe
from harness.specs import Check
from harness.status import Condition, Truth


@dataclass(frozen=True, slots=True)
class Health:
    """Where one probe stands. Not ready until it has passed; `run` counts equal results in a row, `passed` and `failed` all."""

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
        """Why the application is not ready; None when it is. No probes: ready."""
        failed_first = sorted(self._unready, key=lambda h: h.failed == 0)
        return next((h.why or "has not passed often enough" for h in failed_first), None)

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
        return f"run {count} readiness probe{'' if count == 1 else 's'}"


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
            if after.ready is not before.ready or after.why != before.why:
                self._wake("probe result")
            await self._clock.sleep(probe.period_seconds)

    def condition(self, desired: tuple[Check, ...] | None, observed: Observed) -> Condition:
        if desired is None:
            return Condition("Application", Truth.UNKNOWN, "probes start with the registration")
        if any(health.last is None for health in observed.health):
            return Condition("Application", Truth.UNKNOWN, "waiting for the first result of each probe")
        if (why := observed.failing) is not None:
            return Condition("Application", Truth.FALSE, why, problems.PROBE_FAILED)
        count = len(observed.probes or ())
        text = "the probe passes" if count == 1 else f"{count} probes pass" if count else "no probes"
        return Condition("Application", Truth.TRUE, text, applies=count > 0)
