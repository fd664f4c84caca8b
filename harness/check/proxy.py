"""The Linkerd proxy: its binary and release, its ports, its certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import check_problems as problems
from harness import phrases, proxy_release
from harness.check.context import Context, needs_root
from harness.check.report import NOT_LOOKED, Judge, Result, Untried
from harness.daemon.machine import proxy_in_use
from harness.denied import is_denied
from harness.errors import ConfigError, HarnessError
from harness.problems import (
    PROXY_CRASH_LOOP,
    PROXY_MISSING,
    PROXY_NOT_CERTIFIED,
    PROXY_PORT_TAKEN,
    Problem,
)
from harness.supervisor import CRASH_LOOP_EXITS
from harness.system import process, proxy_binary, tcp_sockets
from harness.system.proxy_admin import LoopbackAdmin

NAME = "meshexp-proxy"
EXPIRING_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Facts:
    """`release`: what is known against it, None if nothing is; `error`: why the binary does not run here.

    `taken`: ports of ours on which another user's process listens. `expires`: epoch seconds, 0 without a certificate.
    """

    path: str = ""
    there: bool | Untried = NOT_LOOKED
    release: Problem | Untried | None = NOT_LOOKED
    error: str = ""
    taken: tuple[int, ...] | Untried = NOT_LOOKED
    expires: float = 0.0


async def gather(context: Context) -> Facts:
    config = context.config.proxy
    path = Path(config.path) if config.path else await asyncio.to_thread(proxy_in_use, context.paths)
    there = _is_there(context, path)
    release, error = await _release(context, path) if there is True else (NOT_LOOKED, "")
    try:
        uid = process.find_user(config.user).uid
    except ConfigError:
        uid = -1  # there is no such user
    ports = (config.inbound_port, config.outbound_port, config.admin_port)
    allowed = {uid} if context.running else set()
    taken = tuple(port for port in ports if tcp_sockets.listeners(port) - allowed)
    expires = await LoopbackAdmin().certificate_expiry(config.admin_port) if context.running else 0.0
    return Facts(str(path), there, release, error, taken, expires)


def _is_there(context: Context, path: Path) -> bool | Untried:
    if not context.root and is_denied(path):
        return needs_root(f"{path} cannot be looked at by this user")
    try:
        return path.is_file()
    except OSError as found:
        return Untried(f"{path} cannot be looked at: {found.strerror}")


async def _release(context: Context, path: Path) -> tuple[Problem | Untried | None, str]:
    if not context.root:
        return needs_root("the program is run under another user"), ""
    try:
        release = await asyncio.to_thread(proxy_binary.asked, path)
    except HarnessError as found:
        return NOT_LOOKED, found.message
    if release is None:
        return Untried(f"{path} tells no release: it is no build of Linkerd's, or a script around one"), ""
    return proxy_release.problem(release), ""


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to = Judge(NAME)
    text = "linkerd2-proxy is installed"
    if isinstance(facts.there, Untried):
        yield to.skipped(text, facts.there.why)
    else:
        missing = [] if facts.there else [f"{facts.path} is not there"]
        yield to.found(text, PROXY_MISSING, [*missing, *filter(None, [facts.error])], tried=True)
        yield _judge_release(to, facts)
    text = "its ports are its own"
    if isinstance(facts.taken, Untried):
        yield to.skipped(text, facts.taken.why)
    else:
        taken = [f"another process listens on {', '.join(map(str, facts.taken))}"] if facts.taken else []
        yield to.found(text, PROXY_PORT_TAKEN.narrowed(port=facts.taken[0] if facts.taken else ""), taken, tried=True)
    if context.running:
        yield from _judge_running(to, context, facts)


def _judge_release(to: Judge, facts: Facts) -> Result:
    text = "its release works with SPIRE"
    if facts.there is not True or facts.error:
        return to.skipped(text, "there is no program that can be asked")
    if isinstance(facts.release, Untried):
        return to.skipped(text, facts.release.why)
    return to.failed(text, facts.release) if facts.release else to.passed(text)


def _judge_running(to: Judge, context: Context, facts: Facts) -> Iterator[Result]:
    child = context.status.get("children", {}).get("proxy", {})
    text = "it has a certificate"
    if waits := _waits_for(context):
        yield to.skipped(text, f"the proxy does not run yet: {waits}")
        return
    if not facts.expires and int(child.get("exits", 0)) >= CRASH_LOOP_EXITS:
        yield to.failed("it runs", PROXY_CRASH_LOOP, f"it has exited {phrases.counted(child['exits'], 'time')}")
    elif not facts.expires:
        yield to.failed(text, PROXY_NOT_CERTIFIED, f"the proxy is {child.get('state', 'not there')}, and shows no certificate")
    elif facts.expires - context.wall < EXPIRING_SECONDS:
        reason = f"it ends in {facts.expires - context.wall:.0f} s"
        yield to.failed(text, problems.PROXY_CERTIFICATE_EXPIRING, reason)
    else:
        yield to.passed(f"{text}, valid for {(facts.expires - context.wall) / 3600:.1f} h")


def _waits_for(context: Context) -> str:
    """What must be there before the daemon starts the proxy; empty when nothing is missing, or that is wrong in itself."""
    said = next((one for one in context.status.get("conditions", ()) if one["name"] == "Proxy"), None)
    undecided = said is not None and said["status"] == "Unknown" and said["problem"] is None
    running = context.status.get("children", {}).get("proxy", {}).get("pid")
    return str(said["message"]) if said is not None and undecided and not running else ""
