"""How a daemon begins: its parts are put together, and take over what the daemon before this one has left."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from harness.clock import Clock
from harness.config import schema
from harness.daemon import membership
from harness.daemon.compose import Parts, compose
from harness.daemon.head_start import HeadStart
from harness.errors import HarnessError
from harness.known import Progress
from harness.paths import Paths
from harness.reconcilers.redirect import take_back_trial
from harness.rules import is_hold, networks_of

log = structlog.get_logger()


async def begin(config: schema.Config, paths: Paths, clock: Clock, begun: HeadStart) -> tuple[Parts, bool, Progress]:
    """The parts, whether a proxy was taken over, and how far the daemon before this one had come."""
    try:
        await take_back_trial(paths.redirect_lock)
    except HarnessError as error:  # a member goes on all the same; the redirect's condition meets it too
        log.error("the redirect rules that were on trial are not taken back", reason=error.message, hint=error.hint)
    parts = await compose(config, paths, clock, begun)
    adopted, redirected = await take_over(parts, config.proxy.admin_port)
    member = await asyncio.to_thread(membership.kept, paths)
    if not member and (found := await parts.redirect_found()):  # of an older release, or the marker is lost or damaged
        member = networks_of(found)
    return parts, adopted, Progress(registration=begun.registration, redirected=redirected, member=member)


async def take_over(parts: Parts, admin_port: int) -> tuple[bool, bool]:
    """After a failure nothing of it goes on, such as the watch over a proxy: the next try takes over from nothing."""
    with contextlib.ExitStack() as failed:
        for release in parts.release:
            failed.callback(release)
        adopted = await parts.adopt(admin_port)
        # Rules that a killed daemon left stay until there is a proxy again: without them all traffic would be plaintext.
        # A hold stays a hold, also in front of a proxy that goes on: it refuses what the redirect would take there.
        redirected = (adopted or await parts.redirect_in_place()) and not await _holds(parts)
        failed.pop_all()
    return adopted, redirected


async def _holds(parts: Parts) -> bool:
    """Whether the rules in the kernel are a hold. Rules that cannot be looked at count as the redirect: its
    condition says why they cannot."""
    try:
        return is_hold(await parts.redirect_found())
    except HarnessError:
        return False
