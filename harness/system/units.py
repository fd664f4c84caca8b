"""systemd as seen from one of its services: who we are, whether we are to come back, and the proxy as a unit of its own.

By systemd's own commands, which speak D-Bus: systemd-run starts a transient unit, systemctl asks and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from harness.errors import TemporaryError, UnavailableError, UnwritableError
from harness.system import commands, files
from harness.system.process import Command

UNKNOWN_STATUS = 256
"""Of a child that has ended, when systemd does not say how. No process can have it."""


def booted() -> bool:
    """Whether systemd is what runs this machine: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def own_unit(environ: Mapping[str, str] = os.environ, cgroup: Path = Path("/proc/self/cgroup")) -> str | None:
    """The service that this process is the main process of; None outside systemd."""
    if "INVOCATION_ID" not in environ or not booted():
        return None
    found = re.search(r"/([^/\n]+\.service)$", cgroup.read_text(), re.MULTILINE)
    return found[1] if found else None


def unit_name(name: str, instance: str = "", prefix: str = "meshexp") -> str:
    """`meshexp-proxy.service`; another workload's than the first: `meshexp-proxy@NAME.service`."""
    return f"{prefix}-{name}{'@' if instance else ''}{instance}.service"


async def restarting(unit: str) -> bool:
    """Whether the unit's present job brings it back: `systemctl restart`, or an upgrade of the package."""
    return "restart" in await job(unit)


async def job(unit: str) -> str:
    """The unit's job that waits or runs, as somebody asked for it: `stop`, `restart`, …; empty when there is none.

    Raises HarnessError when systemd does not say. By systemctl, which needs no D-Bus daemon: a minimal Debian has none.
    """
    done = await commands.run("systemctl", "list-jobs", "--no-legend", "--full", foreign=(unit,))
    if done.code:
        raise TemporaryError(f"systemd does not say which job {unit} has: {done.reason}")
    jobs = [line.split() for line in done.text.splitlines()]  # number, unit, type, state
    return next((words[2] for words in jobs if len(words) > 2 and words[1] == unit), "")


async def going_down() -> bool:
    """Whether systemd is about to shut this machine down, or to boot it again. Raises HarnessError when it does not say."""
    if not booted():
        return False
    done = await commands.run("systemctl", "is-system-running")
    state = done.text.strip()
    if state in ("", "unknown"):
        raise TemporaryError(f"systemd does not say whether this machine shuts down: {done.reason}")
    return state == "stopping"


async def show(unit: str, *properties: str) -> dict[str, str]:
    """Properties of a unit; empty values where it does not exist. Raises TemporaryError when systemd does not say."""
    done = await commands.run("systemctl", "show", f"--property={','.join(properties)}", foreign=(unit,))
    if done.code:
        raise TemporaryError(f"systemd does not say how {unit} is: {done.reason}", "`systemctl status` shows whether it answers")
    return dict(line.split("=", 1) for line in done.text.splitlines() if "=" in line)


_FAMILIES = "AF_INET AF_INET6 AF_UNIX"
# What it is, and what it may open sockets of; dnsmasq looks for the machine's own addresses.
_SORTS = {"proxy": ("Linkerd proxy", _FAMILIES), "dns": ("split DNS", f"{_FAMILIES} AF_NETLINK")}


class UnitChild:
    """A process that is the main process of a unit: it outlives us, and we know of its end by a pidfd."""

    def __init__(self, name: str, unit: str, pid: int) -> None:
        self.name, self.pid = name, pid
        self._unit = unit
        self._code: asyncio.Task[int] | None = None

    async def wait(self) -> int:
        if self._code is None or _has_failed(self._code):
            self._code = asyncio.create_task(self._ended())
        return await asyncio.shield(self._code)

    async def _ended(self) -> int:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return await self._status()
        try:
            loop.add_reader(descriptor, ended.set)
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return await self._status()

    async def _status(self) -> int:
        """It has ended, whatever systemd says of it."""
        try:
            found = await show(self._unit, "ExecMainCode", "ExecMainStatus")
        except TemporaryError:
            return UNKNOWN_STATUS
        status = int(found.get("ExecMainStatus") or 0)
        return -status if found.get("ExecMainCode") in ("2", "3") else status  # CLD_KILLED, CLD_DUMPED

    async def stop(self, grace: float) -> int:
        """The unit's own TimeoutStopSec kills it after the grace period that it was started with."""
        await commands.run("systemctl", "stop", foreign=(self._unit,), seconds=grace + commands.ANSWER_SECONDS)
        return await self.wait()


def _has_failed(task: asyncio.Task[int]) -> bool:
    """It ended without a result: the next caller asks again."""
    return task.done() and (task.cancelled() or task.exception() is not None)


class Units:
    """Starts children as transient units, so that they outlive the service that started them. `instance`: whose they are."""

    def __init__(self, instance: str = "", prefix: str = "meshexp") -> None:
        self._instance, self._prefix = instance, prefix

    def _unit(self, name: str) -> str:
        return unit_name(name, self._instance, self._prefix)

    async def spawn(self, command: Command) -> UnitChild:
        unit = self._unit(command.name)
        if not os.access(command.argv[0], os.X_OK):
            raise UnavailableError(f"{command.argv[0]} is not there or not executable", f"it is needed to run {command.name}")
        await self.forget(command.name)
        found = _properties(command) | await _log_namespace()
        properties = [f"--property={name}={value}" for name, value in found.items()]
        environment = [f"--setenv={name}={value}" for name, value in command.env.items()]
        start = "systemd-run", "--quiet", f"--unit={unit}", *properties, *environment
        done = await commands.run(*start, foreign=command.argv)
        if done.code and await self.find(command.name) is not None:
            # Of a start after which systemd did not say how it is: nobody watches over it.
            await commands.run("systemctl", "stop", foreign=(unit,), seconds=command.stop_seconds + commands.ANSWER_SECONDS)
            done = await commands.run(*start, foreign=command.argv)
        if done.code:
            raise UnavailableError(f"systemd does not start {unit}: {done.reason}")
        child = await self.find(command.name)
        if child is None:
            raise UnavailableError(f"{unit} ended at once", f"see `journalctl -u {unit}`")
        return child

    async def forget(self, name: str) -> None:
        """A unit that ended badly stays known to systemd, and listed, until then."""
        with contextlib.suppress(TemporaryError):
            await commands.run("systemctl", "reset-failed", foreign=(self._unit(name),))

    async def find(self, name: str) -> UnitChild | None:
        """The child of that name, if it runs. Raises HarnessError when systemd does not say: it may run."""
        unit = self._unit(name)
        found = await show(unit, "ActiveState", "MainPID")
        pid = int(found.get("MainPID") or 0)
        return UnitChild(name, unit, pid) if pid and found.get("ActiveState") in ("active", "activating", "reloading") else None


async def overwrite(path: Path, text: str, scratch: Path) -> None:
    """As files.overwrite. Where the unit's own mounts forbid it, systemd has it done outside. A program that renames another file
    onto `path`, as dhclient does, takes it out of ReadWritePaths= of every running unit."""
    if os.access(path, os.W_OK) or own_unit() is None:
        await asyncio.to_thread(files.overwrite, path, text)
        return
    files.write(scratch, text, mode=0o644)
    outside = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--setenv=LC_ALL=C")
    done = await commands.run(*outside, foreign=("cp", "--no-preserve=all", "--", str(scratch), str(path)))
    scratch.unlink(missing_ok=True)
    if done.code:
        reason = done.said.strip().rpartition(": ")[2] or f"cp ended with exit status {done.code}"
        raise UnavailableError(f"{path} cannot be written: {reason}")
    try:
        await asyncio.to_thread(files.sync, path)
    except OSError as error:
        raise UnwritableError(path, error) from None


async def _log_namespace() -> dict[str, str]:
    """The daemon's own, if an administrator gave it one: its children's lines belong there too."""
    unit = own_unit()
    found = (await show(unit, "LogNamespace")).get("LogNamespace") if unit else None
    return {"LogNamespace": found} if found else {}


def _properties(command: Command) -> dict[str, str]:
    what, families = _SORTS[command.name]
    user = {"User": str(command.user.uid), "Group": str(command.user.gid)} if command.user else {}
    return {
        **user,
        "Description": f"The {what} of this machine, started by meshexp-harness",
        "Type": "exec",
        "SyslogIdentifier": f"meshexp-{command.name}",
        "TimeoutStopSec": f"{command.stop_seconds:g}s",
        "LimitNOFILE": "1048576",
        # Far above what either takes at rest: a leak ends there, and not with the machine.
        "MemoryMax": "1G",
        "TasksMax": "512",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": " ".join(f"CAP_{name.upper()}" for name in command.capabilities),
        "AmbientCapabilities": " ".join(f"CAP_{name.upper()}" for name in command.capabilities),
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "ProtectKernelTunables": "yes",
        "ProtectKernelModules": "yes",
        "ProtectControlGroups": "yes",
        "RestrictAddressFamilies": families,
        "RestrictNamespaces": "yes",
        "RestrictRealtime": "yes",
        "RestrictSUIDSGID": "yes",
        "ProtectKernelLogs": "yes",
        "ProtectClock": "yes",
        "ProtectHostname": "yes",
        "LockPersonality": "yes",
        "MemoryDenyWriteExecute": "yes",
        "SystemCallArchitectures": "native",
        "SystemCallFilter": "@system-service",
        "SystemCallErrorNumber": "EPERM",
        "OOMScoreAdjust": "-500",
    }
