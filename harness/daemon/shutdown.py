"""The order down: not ready → drain → redirect off → proxy → leave → identity → routes. Each step ends, whatever fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from harness import tasks
from harness.clock import Clock
from harness.config import schema
from harness.daemon.compose import Part, Parts
from harness.desired import Machine, Progress, Readiness, desired
from harness.errors import HarnessError
from harness.messages import Reason

LEAVE_SECONDS = 5.0


async def go_down(config: schema.Config, machine: Machine, parts: Parts, progress: Progress, clock: Clock, log: Any) -> None:
    began = clock.now()
    await announce(config, machine, parts, progress, clock, log)
    await _remove(parts.redirect, log)
    await _remove(parts.probes, log)
    left = max(0.0, config.drain.deadline - (clock.now() - began))
    await _remove(parts.proxy, log, left)
    await _remove(parts.registration, log, LEAVE_SECONDS)
    await _remove(parts.identity, log)
    await _remove(parts.routes, log)


async def hand_over(parts: Parts, log: Any) -> None:
    """Ends only what cannot outlive this process."""
    await _remove(parts.probes, log)
    await _remove(parts.identity, log)


async def announce(config: schema.Config, machine: Machine, parts: Parts, progress: Progress, clock: Clock, log: Any) -> None:
    """Tells the controller that no more traffic is wanted, and waits until the endpoint change has spread."""
    registration, spec = progress.registration, desired(config, machine, progress).registration
    if registration is None or spec is None:
        return
    draining = replace(spec, readiness=Readiness(False, Reason.DRAINING, "stopping"))
    keeper, asked = parts.registration.reconciler, False
    try:
        async with asyncio.timeout(LEAVE_SECONDS):
            while (observed := await keeper.observe()).registration is not None and observed.reported != draining.readiness:
                # At once, whatever pause an earlier failure asked for; only a failure of this very call waits again.
                for action in keeper.diff(draining, observed if asked else replace(observed, retry_at=0.0)):
                    asked = True
                    await keeper.apply(action)
                await clock.sleep(0.01)
    except TimeoutError:
        log.warning("the controller does not hear that this machine is leaving")
        return
    except HarnessError as error:
        log.warning("the controller does not hear that this machine is leaving", reason=error.message)
        return
    await clock.sleep(registration.drain_seconds)


async def _remove(part: Part, log: Any, seconds: float | None = None) -> None:
    async def work() -> bool:
        for action in part.reconciler.diff(None, await part.reconciler.observe()):
            log.info(str(action).partition("\n")[0], part=part.name)
            await part.reconciler.apply(action)
        return True

    try:
        if not await tasks.within(seconds, work()):
            log.warning("gave up waiting", part=part.name)
    except HarnessError as error:
        log.error(error.message, part=part.name, hint=error.hint)
