"""The machine itself: its secrets' modes, what we may do on it, its users, its kernel."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import check_problems as problems
from harness import metrics_text
from harness.check.context import NEEDS_ROOT, Context, needs_root
from harness.check.report import NOT_LOOKED, Judge, Result, Untried, reasons_untried
from harness.config import schema
from harness.errors import ConfigError, HarnessError, PermissionError_
from harness.problems import METRICS_NOT_EXPORTED, REDIRECT_BACKEND_UNAVAILABLE
from harness.status import Phase
from harness.system import metrics_server, privileges, process, redirect_backend, tcp_sockets
from harness.system.nftables import Nftables

NAME = "meshexp-machine"
OTHERS = 0o077
ROOT = 0
METRICS_SECONDS = 5.0
"""A busy daemon answers late; Prometheus waits for 10 s."""
Text = str | Untried


@dataclass(frozen=True, slots=True)
class Facts:
    """Each text is empty when all is well. `secrets`: those that are there, each with why it is not root's alone.

    `backend`: what was chosen; `backend_error`: why none works. `kernel`: what it refuses. `metrics`: why they are not served.
    """

    secrets: tuple[tuple[str, Text], ...] = ()
    privileges: Text = NOT_LOOKED
    users: Text = NOT_LOOKED
    backend: str = ""
    backend_error: Text = NOT_LOOKED
    kernel: Text = NOT_LOOKED
    metrics: Text = NOT_LOOKED


async def gather(context: Context) -> Facts:
    config = context.config
    backend, backend_error, kernel = await _backend(config.redirect.backend) if context.root else ("", NEEDS_ROOT, NEEDS_ROOT)
    return Facts(
        secrets=tuple((str(path), found) for path in secrets(context) if (found := exposure(path)) is not None),
        privileges=_privileges() if context.root else NEEDS_ROOT,
        users=_users(config),
        backend=backend,
        backend_error=backend_error,
        kernel=kernel,
        metrics=await _metrics(context),
    )


async def _backend(wanted: schema.Backend) -> tuple[str, Text, Text]:
    try:
        detected = await asyncio.to_thread(redirect_backend.detect, redirect_backend.Choice(wanted.value))
    except (HarnessError, OSError) as error:
        return "", _told(error), Untried("there is no backend to try them with")
    if not isinstance(detected.backend, Nftables):
        return detected.reason, "", Untried("rules of legacy iptables cannot be tried without setting them")
    try:
        await detected.backend.try_redirect()
    except HarnessError as error:
        return detected.reason, "", _told(error)
    return detected.reason, "", ""


def _told(error: HarnessError | OSError) -> Text:
    """An error for lack of rights says nothing about the machine: then it was not tried."""
    return Untried(f"not allowed: {error}") if isinstance(error, (PermissionError_, PermissionError)) else str(error)


def secrets(context: Context) -> Iterator[Path]:
    """Every file of this machine's that must be root's alone, there or not."""
    identity, mode = context.config.identity, context.config.identity.mode
    yield context.paths.invitation
    yield context.paths.registration
    if mode is schema.IdentityMode.LOCAL:
        yield Path(identity.local.ca_key)
    elif mode is schema.IdentityMode.EMBEDDED:
        yield Path(identity.embedded.ca_key)
    elif mode is schema.IdentityMode.AGENT:
        yield from (Path(file) for file in (identity.agent.join_token_file, identity.agent.key_file) if file)


def exposure(path: Path) -> Text | None:
    """Why others than root can read it, or make it readable: by its mode or as its owner. None when it is not there."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        return needs_root(f"{path}: {error.strerror}")
    except OSError as error:
        return Untried(f"{path} cannot be looked at: {error.strerror}")
    mode = [f"has the mode {stat.S_IMODE(found.st_mode):04o}"] if found.st_mode & OTHERS else []
    owner = [f"belongs to {process.name_of(found.st_uid)}"] if found.st_uid != ROOT else []
    return " and ".join([*owner, *mode])


def _users(config: schema.Config) -> str:
    wanted = {"proxy.user": config.proxy.user}
    if config.identity.mode in (schema.IdentityMode.LOCAL, schema.IdentityMode.AGENT):
        wanted["identity.spire.agent_user"] = config.identity.spire.agent_user
    if config.identity.mode is schema.IdentityMode.LOCAL:
        wanted["identity.spire.server_user"] = config.identity.spire.server_user
    missing = []
    for key, name in wanted.items():
        try:
            process.find_user(name, key)
        except ConfigError:
            missing.append(f"{key}: there is no user {name!r}")
    return "; ".join(missing)


async def _metrics(context: Context) -> Text:
    """Of a daemon that runs the answer must be its own; one that is to start needs the port."""
    where = context.config.metrics.listen
    if where is None:
        return Untried("metrics.listen is null")
    if not context.running:
        return f"another process listens on port {where.port}" if tcp_sockets.listeners(where.port) else ""
    if "started" not in context.status or context.status.get("phase") == Phase.UNKNOWN.text:
        return Untried("the daemon does not say since when it runs, or that was long ago")
    try:
        text = await metrics_server.ask(where, METRICS_SECONDS)
    except HarnessError as error:
        return error.message
    return "" if metrics_text.is_of(text, context.status) else f"what answers at {where} is not this daemon"


def _privileges() -> str:
    try:
        privileges.check()
    except PermissionError_ as error:
        return error.message
    return ""


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to = Judge(NAME)
    yield _judge_secrets(to, facts)
    how = f" ({facts.backend})" if facts.backend else ""
    texts = (
        ("root with the capabilities that are needed", problems.PRIVILEGES_MISSING, facts.privileges),
        ("the system users are there", problems.USER_MISSING, facts.users),
        (f"a firewall backend works{how}", REDIRECT_BACKEND_UNAVAILABLE, facts.backend_error),
        ("the kernel takes redirect rules", problems.KERNEL_UNSUITABLE, facts.kernel),
        (_metrics_text(context), METRICS_NOT_EXPORTED, facts.metrics),
    )
    for description, problem, text in texts:
        why = reasons_untried(text)
        yield to.found(description, problem, [text] if isinstance(text, str) and text else [], tried=not why, why=why)


def _metrics_text(context: Context) -> str:
    where = context.config.metrics.listen
    if where is None:
        return "metrics are served"
    return f"metrics are served at {where}" if context.running else f"port {where.port} is free for metrics"


def _judge_secrets(to: Judge, facts: Facts) -> Result:
    exposed = [f"{path} {found}" for path, found in facts.secrets if found and isinstance(found, str)]
    why = reasons_untried(*(found for _, found in facts.secrets)) if facts.secrets else "there are none on this machine"
    return to.found("secrets are root's alone", problems.SECRETS_EXPOSED, exposed, tried=not why, why=why)
