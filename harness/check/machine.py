"""The machine itself: its secrets' modes, what we may do on it, its users, its kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import check_problems as problems
from harness.check.context import Context
from harness.check.report import Judge, Result
from harness.config import schema
from harness.errors import HarnessError
from harness.problems import METRICS_NOT_EXPORTED, REDIRECT_BACKEND_UNAVAILABLE
from harness.system import privileges, process, redirect_backend, tcp_sockets
from harness.system.nftables import Nftables

OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class Facts:
    """Each text is empty when all is well. `exposed`: secrets that others may read. `metrics`: of a daemon that is to start."""

    exposed: tuple[str, ...]
    privileges: str
    users: str
    backend: str
    backend_error: str
    kernel: str
    metrics: str


async def gather(context: Context) -> Facts:
    config = context.config
    backend, backend_error, kernel = "", "", ""
    try:
        detected = await asyncio.to_thread(redirect_backend.detect, redirect_backend.Choice(config.redirect.backend.value))
        backend = detected.reason
        if isinstance(detected.backend, Nftables):
            await detected.backend.try_redirect()
    except HarnessError as error:
        backend_error, kernel = ("", error.message) if backend else (error.message, "")
    return Facts(
        exposed=tuple(str(path) for path in secrets(context) if is_exposed(path)),
        privileges=_message(privileges.check),
        users=_users(config),
        backend=backend,
        backend_error=backend_error,
        kernel=kernel,
        metrics="" if context.running else _metrics(config.metrics),
    )


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


def is_exposed(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & OTHERS)
    except OSError:
        return False


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
        except HarnessError:
            missing.append(f"{key}: there is no user {name!r}")
    return "; ".join(missing)


def _metrics(config: schema.Metrics) -> str:
    if config.listen is None or not tcp_sockets.listeners(config.listen.port):
        return ""
    return f"another process listens on port {config.listen.port}"


def _message(function: object) -> str:
    try:
        function()  # type: ignore[operator]
    except HarnessError as error:
        return error.message
    return ""


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to = Judge("meshexp-machine")
    yield to.passed("the configuration is right")
    yield to.found("secrets are root's alone", problems.SECRETS_EXPOSED, facts.exposed)
    yield to.found("root with the capabilities that are needed", problems.PRIVILEGES_MISSING, filter(None, [facts.privileges]))
    yield to.found("the system users are there", problems.USER_MISSING, filter(None, [facts.users]))
    how = f" ({facts.backend})" if facts.backend else ""
    yield to.found(f"a firewall backend works{how}", REDIRECT_BACKEND_UNAVAILABLE, filter(None, [facts.backend_error]))
    yield to.found("the kernel takes redirect rules", problems.KERNEL_UNSUITABLE, filter(None, [facts.kernel]))
    yield to.found("its metrics can be had", METRICS_NOT_EXPORTED, filter(None, [facts.metrics]))
