"""The order down: not ready → drain → redirect off → proxy → leave → identity → dns → routes. Each step ends, whatever fails.

With `on_proxy_loss: closed` the redirect becomes the hold instead, which is the last to go: what programs send to the mesh
meanwhile is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from harness import tasks
from harness.clock import Clock
from harness.config import schema
from harness.daemon import membership
from harness.daemon.compose import Part, Parts
from harness.desired import desired, hold
from harness.errors import HarnessError, TemporaryError
from harness.known import Machine, Progress
from harness.messages import Reason, Registration
from harness.rules import RedirectSpec
from harness.specs import Readiness, RegistrationSpec
from harness.system import systemd, tcp_sockets, units

LEAVE_SECONDS, SPREAD_MOST_SECONDS = 5.0, 30.0
ROUTINE_SECONDS = 20.0  # SPIRE's server and agent have 10 s each before they are killed


async def go_down(
    config: schema.Config, machine: Machine, parts: Parts, progress: Progress, clock: Clock, log: Any, keep_redirect: bool
) -> None:
    """`keep_redirect`: the rules stay. Without a proxy behind them calls to the mesh are refused: none goes out in plaintext."""
    began = clock.now()
    held = hold(config, machine, progress)
    await _attempt("the drain", announce(config, machine, parts, progress, Reason.DRAINING, log), log)
    await _attempt("the wait for open connections", _answered(config, clock, log), log)
    if not keep_redirect:
        await _remove(parts.redirect, log, ROUTINE_SECONDS, held)
    await _remove(parts.probes, log, ROUTINE_SECONDS)
    left = max(0.0, config.drain.deadline - (clock.now() - began))
    await _remove(parts.proxy, log, left)
    await _remove(parts.registration, log, LEAVE_SECONDS)
    await _remove(parts.identity, log, ROUTINE_SECONDS)
    await _remove(parts.dns, log, ROUTINE_SECONDS)
    await _remove(parts.routes, log, ROUTINE_SECONDS)
    # While the whole machine goes down, the hold does not.
    if held is not None and not keep_redirect and not await membership.lasts():
        await _remove(parts.redirect, log, ROUTINE_SECONDS)


async def comes_back(unit: str | None, log: Any) -> bool:
    """Whether systemd is to start the next daemon at once. Where it does not say, all stays: ExecStopPost= asks again."""
    if unit is None:
        return False
    try:
        with tasks.unexpected("the question to systemd"):
            return await units.restarting(unit)
    except HarnessError as error:
        log.warning("systemd does not say whether this is a restart", reason=error.message)
        return True


def spread_seconds(registration: Registration) -> float:
    """For which the controller asks; it cannot keep a machine from stopping."""
    return min(registration.drain_seconds, SPREAD_MOST_SECONDS)


def take_time(config: schema.Config, progress: Progress) -> None:
    """Has systemd wait for all of it: announce, drain, leave, and what only removes what is on this machine."""
    systemd.notify(EXTEND_TIMEOUT_USEC=int(longest_seconds(config, progress) * 1e6))


def longest_seconds(config: schema.Config, progress: Progress) -> float:
    """How long a stop takes at the most; a restart of the proxy, which is announced and drained too, takes less."""
    spread = spread_seconds(progress.registration) if progress.registration is not None else 0.0
    wait = max(config.drain.deadline, config.proxy.shutdown_grace)
    return LEAVE_SECONDS + spread + wait + LEAVE_SECONDS + ROUTINE_SECONDS


async def _answered(config: schema.Config, clock: Clock, log: Any) -> None:
    """Waits for the inbound connections that are still open: with the last rule the kernel drops what it had redirected."""
    port, until = config.proxy.inbound_port, clock.now() + min(config.proxy.shutdown_grace, config.drain.deadline)
    while (number := tcp_sockets.open_connections(port)) and clock.now() < until:
        await clock.sleep(0.05)
    if number:
        log.warning("connections are still open and will break", number=number, port=port)


async def hand_over(parts: Parts, log: Any) -> None:
    """Ends only what cannot outlive this process."""
    await _remove(parts.probes, log, ROUTINE_SECONDS)
    await _remove(parts.identity, log, ROUTINE_SECONDS)


async def announce(config: schema.Config, machine: Machine, parts: Parts, progress: Progress, reason: Reason, log: Any) -> bool:
    """Tells the controller that no more traffic is wanted, and waits until the endpoint change has spread.

    False when the controller does not hear it, or says no. The reason of a cordon stays: that traffic is kept away is known.
    """
    registration, spec = progress.registration, desired(config, machine, progress).registration
    if registration is None or spec is None:
        return True
    unready = spec if progress.cordon is not None else replace(spec, readiness=Readiness(False, reason))
    try:
        if await tasks.within(LEAVE_SECONDS, _told(parts, unready)) is None:
            raise TemporaryError("no answer in time")
    except HarnessError as error:
        log.warning("the controller does not take this machine out of its endpoints", why=reason.value, reason=error.message)
        return False
    await asyncio.sleep(spread_seconds(registration))
    return True


async def _told(parts: Parts, spec: RegistrationSpec) -> bool:
    await parts.tell(spec)
    return True


async def _remove(part: Part, log: Any, seconds: float, wanted: RedirectSpec | None = None) -> None:
    """`wanted`: what takes its place for now."""

    async def work() -> bool:
        for action in part.reconciler.diff(wanted, await part.reconciler.observe()):
            log.info(str(action).partition("\n")[0], part=part.name)
            await part.reconciler.apply(action)
        return True

    async def limited() -> None:
        if not await tasks.within(seconds, work()):
            log.warning("gave up waiting", part=part.name)

    await _attempt(part.name, limited(), log)


async def _attempt(what: str, step: Awaitable[object], log: Any) -> None:
    """A step that fails is logged, and the steps after it are tried too."""
    try:
        with tasks.unexpected(what):
            await step
    except HarnessError as error:
        log.error(error.message, step=what, hint=error.hint)
