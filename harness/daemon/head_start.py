"""The daemon's start: SPIRE needs about as long to come up as the rest of the daemon to be imported, so both happen at once.

What this module imports is what an identity needs, and little else. All the rest is imported before the first cycle, and nothing
later: an upgrade beneath a running daemon mixes no versions.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType
from typing import Any

import structlog

from harness import decode, desired, lean_imports, tasks
from harness.clock import Clock
from harness.daemon import bugs, machine
from harness.daemon.in_force import InForce
from harness.errors import ConfigError, HarnessError
from harness.known import Machine
from harness.messages import Registration
from harness.paths import Paths
from harness.reconcilers.identity import Identity
from harness.specs import IdentitySpec
from harness.system import files, process, proxy_log, units
from harness.system.spire import Spire


@dataclass(slots=True)
class Wakes:
    """Why the next cycle is due."""

    reasons: set[str] = field(default_factory=set)
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, reason: str) -> None:
        self.reasons.add(reason)
        self._event.set()

    def take(self) -> list[str]:
        reasons, self.reasons = sorted(self.reasons), set()
        return reasons

    async def within(self, seconds: float | None) -> bool:
        """Whether there is a reason, after waiting for one."""
        woken = await tasks.within(seconds, self._event.wait())
        self._event.clear()
        return bool(woken)


@dataclass(frozen=True, slots=True)
class HeadStart:
    """What is there before the first cycle."""

    machine: Machine
    processes: process.Processes
    identity: Identity
    wakes: Wakes
    registration: Registration | None
    """What a daemon before this one was told."""
    began: float
    """Clock.now() then."""
    unit: str | None
    """Our own, under systemd: there the proxy is a unit too, which outlives this process; elsewhere it is a child."""
    in_force: InForce | None = None
    """None for a look that starts nothing."""
    keep_redirect: bool = False
    """A stop leaves the rules; the program that started the daemon removes them."""


def unstarted(found: Machine, paths: Paths, clock: Clock) -> HeadStart:
    wakes, processes = Wakes(), process.Processes(paths.children, log_line)
    identity = Identity(processes, Spire(paths), clock, wakes)
    return HeadStart(found, processes, identity, wakes, known_registration(paths), clock.now(), units.own_unit())


def known_registration(paths: Paths) -> Registration | None:
    """What the controller told the daemon last; None where nothing is kept that can be used."""
    left = files.read_json(paths.known_registration)
    try:
        return decode.decode(Registration, left, source="registration", lenient=True) if left else None
    except ConfigError:
        return None


def start(in_force: InForce, paths: Paths, clock: Clock, keep_redirect: bool = False) -> int:
    with files.lock(paths.lock):
        return asyncio.run(_run(in_force, paths, clock, keep_redirect))


async def _run(in_force: InForce, paths: Paths, clock: Clock, keep_redirect: bool) -> int:
    process.raise_file_limit()
    config = in_force.config
    log = structlog.get_logger().bind(component="harness")
    tasks.on_bug(partial(bugs.log, log))
    # Under systemd the next daemon tries again; elsewhere there may be no next one.
    alone = units.own_unit() is None
    look = partial(machine.look, config, paths, in_force.anchors_pem)
    found = await tasks.persist("the look at this machine", look, clock, lambda: alone)
    for orphan in process.orphans(paths.children):
        log.warning("ending a child of a daemon that is gone", child=orphan.name, pid=orphan.pid)
        await process.end(orphan, 2.0)
    begun = replace(unstarted(found, paths, clock), in_force=in_force, keep_redirect=keep_redirect)
    imports = asyncio.ensure_future(asyncio.to_thread(_import_the_rest))
    imports.add_done_callback(lambda _: begun.wakes("start"))
    while not imports.done():
        await _step(begun.identity, desired.identity(config, found, begun.registration), log)
        await begun.wakes.within(None)
    lean_imports.done()
    return int(await imports.result().Daemon(config, paths, os.environ, clock, begun).run())


async def _step(identity: Identity, wanted: IdentitySpec, log: Any) -> None:
    """What fails is tried again, and told of, by the cycles."""
    try:
        with tasks.unexpected(identity.name):
            for action in identity.diff(wanted, await identity.observe()):
                log.info(str(action), part=identity.name)
                await identity.apply(action)
    except HarnessError as error:
        log.error(error.message, part=identity.name, hint=error.hint)


def _import_the_rest() -> ModuleType:
    from harness.daemon import loop

    return loop


def log_line(child: str, line: str) -> None:
    """A child's line in our own log, under its name, and with its level where it has one."""
    if line:
        getattr(structlog.get_logger(), proxy_log.level(line))(line, component=child)
