"""`meshexp plan`: observe and diff, never apply. While a daemon runs, it shows what differs now; else what a start would do."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

from harness import desired, hints, paths, terminal
from harness.clock import SystemClock
from harness.config import load, schema
from harness.daemon import head_start, machine, membership
from harness.daemon.compose import compose
from harness.daemon.surroundings import with_networks
from harness.known import Machine, Progress
from harness.problems import Problem, Severity
from harness.reconcilers import dns, routes
from harness.reconcilers.redirect_text import summary
from harness.rules import rules_for
from harness.system import files, privileges, process


@dataclass(frozen=True, slots=True)
class Objection:
    """What is in the way, and stays as it is."""

    message: str
    problem: Problem

    def __str__(self) -> str:
        return f"{'×' if self.problem.severity is Severity.ERROR else '‼'} {self.message} ({self.problem.hint})"


@dataclass(frozen=True, slots=True)
class Unknown:
    """What nobody can say yet, and why. `so_far`: what can be said already, in lines."""

    message: str
    so_far: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"not known yet: {self.message}" + (f"; so far: {'; '.join(self.so_far)}" if self.so_far else "")


def run(output: str) -> int:
    privileges.check("plan")
    steps = asyncio.run(actions(paths.from_environment()))
    if output == "json":
        terminal.say_json([_record(part, action) for part, action in steps])
    else:
        for part, action in steps:
            if "\n" in str(action):  # rules, as input for the tool
                print(action)
            else:
                terminal.say(f"# {part}: {action}")
        if not steps:
            print("# nothing to do")
    return 0


def _record(part: str, action: Any) -> dict[str, Any]:
    if isinstance(action, Objection):
        return {"part": part, "problem": action.problem.code, "message": action.message, "hint": action.problem.hint}
    if isinstance(action, Unknown):
        return {"part": part, "unknown": action.message, "so_far": action.so_far}
    return {"part": part, "action": str(action)}


async def actions(where: paths.Paths) -> list[tuple[str, Any]]:
    """By part, in the order in which they would be applied; before them what is in the way."""
    config = load.of_member(where, os.environ)
    found = await with_networks(await machine.look(config, where), where)
    clock = SystemClock()
    begun = head_start.unstarted(found, where, clock)
    parts, registration = await compose(config, where, clock, begun), begun.registration
    # As if every gate were open: what a machine that joins now would get.
    certified, member = registration is not None, membership.kept(where)
    progress = Progress(registration=registration, identity_served=True, proxy_certified=certified, member=member)
    want = desired.desired(config, found, progress)
    running = files.is_locked(where.lock)
    if running:
        chosen = [parts.routes, parts.dns, parts.redirect]
    else:
        chosen = [parts.routes, parts.dns, parts.identity, parts.proxy, parts.redirect]
    there = await parts.routes.reconciler.observe()
    said = routes.objections(want.routes or (), there) if isinstance(there, routes.Observed) else ()
    known = hints.general(where, config)
    steps: list[tuple[str, Any]] = [(parts.routes.name, Objection(c.message, met)) for c in said if (met := c.met(known))]
    if not running and (held := desired.hold(config, found, progress)) is not None and not await parts.redirect_found():
        steps.append((parts.redirect.name, f"hold first: {summary(held)}"))
    unknown = _unknown(config, found, where, running) if registration is None else {}
    for part in chosen:
        wanted = part.want(want)
        if wanted is not None:
            steps += [(part.name, action) for action in await _differences(part.reconciler, wanted)]
        steps += [(part.name, unknown[part.name])] if part.name in unknown else []
    return [(part, action) for part, action in steps if not (running and _runs(action, where))]


def _unknown(config: schema.Config, found: Machine, where: paths.Paths, running: bool) -> dict[str, Unknown]:
    """By part, what the controller has not told yet. Routes and DNS are the first workload's."""
    when = "which the controller tells at the registration" + ("; `meshexp status` says what that waits for" if running else "")
    unknown = {}
    if not where.instance:
        unknown["routes"] = Unknown(f"routes to networks of the cluster that the configuration does not name, {when}")
    if not where.instance and config.dns.mode is not schema.DnsMode.OFF and not config.dns.servers:
        unknown["dns"] = Unknown(f"the cluster's DNS servers, {when}")
    program = config.proxy.path or machine.proxy_in_use(where)
    ports = ", ".join(map(str, (config.proxy.inbound_port, config.proxy.outbound_port, config.proxy.admin_port)))
    how = (f"start {program} as uid {found.user.uid}", f"it listens on {ports}")
    unknown["proxy"] = Unknown(f"the proxy's variables, {when}", how)
    spec = desired.redirect(config, found, None)
    if rules_for(spec):
        networks = f"the networks are {', '.join(map(str, spec.outbound_networks))}" if spec.outbound_networks else ""
        so_far = (summary(spec), *filter(None, [networks]))
        unknown["redirect"] = Unknown(f"the group's ports, and the networks that the configuration does not name, {when}", so_far)
    return unknown


def _runs(action: Any, where: paths.Paths) -> bool:
    """Whether it starts a dnsmasq that runs already: without systemd it is the daemon's child, and only the daemon knows it."""
    if not isinstance(action, dns.Start) or files.text(where.dnsmasq) != action.conf:
        return False
    return process.recorded(where.children / f"{dns.NAME}.json") is not None


async def _differences(reconciler: Any, wanted: Any) -> tuple[Any, ...]:
    """Asks the questions among the actions, which change nothing: what else there is to do depends on the answers."""
    actions: tuple[Any, ...] = reconciler.diff(wanted, await reconciler.observe())
    questions = [action for action in actions if isinstance(action, dns.Ask)]
    if not questions:
        return actions
    for question in questions:
        await reconciler.apply(question)
    return tuple(reconciler.diff(wanted, await reconciler.observe()))
