"""The control plane as seen from here: controller, destination and policy answer, and are who they should be; and their clock."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from harness import check_problems as problems
from harness.check.context import Context
from harness.check.report import NOT_LOOKED, Judge, Result, Untried
from harness.errors import ConfigError
from harness.problems import CONTROLLER_UNREACHABLE, CONTROLLER_UNTRUSTED, Problem, Severity
from harness.system import process
from harness.system.tls_look import Seen, look
from harness.trust import Distrust
from harness.trust_problems import CERTIFICATE_EXPIRED, CLOCK_SKEW, IDENTITY_REFUSED, OF_CONTROLLER

NAME = "meshexp-control-plane"
SECONDS = 3.0
SKEW_SECONDS = 5.0
"""SPIRE's certificates are valid from 10 s before they are made; beyond that the two refuse one another."""


@dataclass(frozen=True, slots=True)
class Facts:
    """None: nobody has told where it is. `behind`: the controller is in networks whose routes come with the joining."""

    controller: Seen | None = None
    destination: Seen | None = None
    policy: Seen | None = None
    behind: bool | Untried = NOT_LOOKED


async def gather(context: Context) -> Facts:
    """The controller is asked for its time when there is an SVID to ask with; it answers nobody without one."""
    controller, anchors, uid = context.config.controller, context.anchors_pem, _proxy_uid(context)
    others = [context.destination, context.policy]
    first, *seen = await asyncio.gather(
        look(controller.address, controller.identity, anchors, SECONDS, context.svid, uid),
        *(look(*other, anchors, SECONDS, None, uid) for other in others if other is not None),
    )
    rest = iter(seen)
    destination, policy = (next(rest) if other is not None else None for other in others)
    return Facts(first, destination, policy, await _behind(context) if first.refused else NOT_LOOKED)


async def _behind(context: Context) -> bool | Untried:
    host = context.config.controller.address.host.rstrip(".")
    try:
        async with asyncio.timeout(SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        return Untried(f"{host} has no address: {error}")
    addresses = [ipaddress.ip_address(target[0]) for *_, target in found]
    return any(address in network for address in addresses for network in context.networks)


def _proxy_uid(context: Context) -> int | None:
    """None where there is no redirect that could take our connection: without such a user, or, for a check without root, before
    the machine joins. A daemon that was killed leaves its rules, and its status."""
    if not context.root and not context.running and not context.paths.status.exists():
        return None
    try:
        return process.find_user(context.config.proxy.user).uid
    except ConfigError:
        return None


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to = Judge(NAME)
    # A member goes on without it; nobody joins without it.
    needed = context.pre and facts.behind is not True
    unreached = dataclasses.replace(CONTROLLER_UNREACHABLE, severity=Severity.ERROR) if needed else CONTROLLER_UNREACHABLE
    parts: tuple[tuple[str, Seen | None, Problem, Problem], ...] = (
        ("the controller", facts.controller, unreached, CONTROLLER_UNTRUSTED),
        ("destination", facts.destination, problems.DESTINATION_UNREACHABLE, problems.DESTINATION_UNTRUSTED),
        ("policy", facts.policy, problems.POLICY_UNREACHABLE, problems.POLICY_UNTRUSTED),
    )
    for name, seen, unreachable, untrusted in parts:
        if seen is None:
            yield to.skipped(f"{name} answers", "nobody has told its address yet; the controller does at the registration")
            continue
        refused = [f"{seen.address}: {seen.refused}"] if seen.refused else []
        text = f"{name} answers at {seen.address}"
        yield to.found(text, unreachable, refused, tried=seen.connected, why=seen.untried)
        if not seen.refused and seen.why is not Distrust.EARLY:
            wrong = [f"{seen.address}: {seen.untrusted}"] if seen.untrusted else []
            problem = _untrusted(seen, untrusted)
            yield to.found(f"{name} is {seen.name}", problem, wrong, tried=seen.good, why=seen.untried)
    if context.svid is not None and facts.controller is not None and facts.controller.good:
        unwelcome = filter(None, [facts.controller.unwelcome])
        answered = facts.controller.skew is not None
        text = "the controller accepts this machine's certificate"
        yield to.found(text, IDENTITY_REFUSED, unwelcome, tried=answered, why="it did not answer")
    yield from _clock(to, [seen for _, seen, _, _ in parts if seen is not None])


def _untrusted(seen: Seen, other: Problem) -> Problem:
    """`other`: where neither the time nor the name is what is wrong."""
    if seen.why is Distrust.EXPIRED:
        return CERTIFICATE_EXPIRED.narrowed(seen.untrusted, address=seen.address)
    if other is not CONTROLLER_UNTRUSTED:
        return other
    problem = OF_CONTROLLER[seen.why or Distrust.ISSUER]
    return problem.narrowed(seen.untrusted, address=seen.address)


def _clock(to: Judge, seen: list[Seen]) -> Iterator[Result]:
    early = [f"{one.address}: {one.untrusted}" for one in seen if one.why is Distrust.EARLY]
    skews = [one.skew for one in seen if one.skew is not None]
    wrong = [
        f"the controller's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
        for skew in skews
        if abs(skew) > SKEW_SECONDS
    ]
    how = "no clock skew" if skews else "no clock skew that certificates show"
    tried = bool(skews) or any(one.good for one in seen)
    why = next((one.untried for one in seen if one.untried), "no certificate of the control plane was seen")
    yield to.found(how, CLOCK_SKEW, early + wrong, tried=tried, why=why)
