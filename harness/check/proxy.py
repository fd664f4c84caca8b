"""The Linkerd proxy: its binary and release, its ports, its certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import check_problems as problems
from harness.check.context import Context
from harness.check.report import Judge, Result
from harness.daemon.machine import proxy_in_use
from harness.errors import HarnessError
from harness.problems import (
    PROXY_BAD_RELEASE,
    PROXY_CRASH_LOOP,
    PROXY_MISSING,
    PROXY_NOT_CERTIFIED,
    PROXY_PORT_TAKEN,
    Problem,
)
from harness.supervisor import CRASH_LOOP_EXITS
from harness.system import process, proxy_binary, tcp_sockets
from harness.system.proxy_admin import LoopbackAdmin

EXPIRING_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Facts:
    """`taken`: ports of ours on which another user's process listens. `expires`: epoch seconds, 0 without a certificate."""

    path: str
    there: bool
    bad: Problem | None
    error: str
    taken: tuple[int, ...]
    expires: float


async def gather(context: Context) -> Facts:
    config = context.config.proxy
    path = Path(config.path) if config.path else await asyncio.to_thread(proxy_in_use, context.paths)
    there, bad, error = path.is_file(), None, ""
    try:
        bad = await asyncio.to_thread(proxy_binary.problem_of, path) if there else None
    except HarnessError as found:
        error = found.message
    try:
        uid = process.find_user(config.user).uid
    except HarnessError:
        uid = -1  # nobody's
    ports = (config.inbound_port, config.outbound_port, config.admin_port)
    allowed = {uid} if context.running else set()
    taken = tuple(port for port in ports if tcp_sockets.listeners(port) - allowed)
    expires = await LoopbackAdmin().certificate_expiry(config.admin_port) if context.running else 0.0
    return Facts(str(path), there, bad, error, taken, expires)


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to = Judge("meshexp-proxy")
    missing = [] if facts.there else [f"{facts.path} is not there"]
    yield to.found("linkerd2-proxy is installed", PROXY_MISSING, missing + list(filter(None, [facts.error])))
    if facts.there:
        yield to.found("its release works with SPIRE", facts.bad or PROXY_BAD_RELEASE, [facts.bad.title] if facts.bad else [])
    taken = [f"another process listens on {', '.join(map(str, facts.taken))}"] if facts.taken else []
    yield to.found("its ports are its own", PROXY_PORT_TAKEN, taken)
    if context.running:
        yield from _judge_running(to, context, facts)


def _judge_running(to: Judge, context: Context, facts: Facts) -> Iterator[Result]:
    child = context.status.get("children", {}).get("proxy", {})
    text = "it has a certificate"
    if not facts.expires and int(child.get("exits", 0)) >= CRASH_LOOP_EXITS:
        yield to.failed("it runs", PROXY_CRASH_LOOP, f"it has exited {child['exits']} times")
    elif not facts.expires:
        yield to.failed(text, PROXY_NOT_CERTIFIED, f"the proxy is {child.get('state', 'not there')}, and shows no certificate")
    elif facts.expires - context.wall < EXPIRING_SECONDS:
        reason = f"it ends in {facts.expires - context.wall:.0f} s"
        yield to.failed(text, problems.PROXY_CERTIFICATE_EXPIRING, reason)
    else:
        yield to.passed(f"{text}, valid for {(facts.expires - context.wall) / 3600:.1f} h")
