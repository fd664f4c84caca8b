"""Child processes: own session, dropped privileges, lines to the log, TERM → grace → KILL, a record for `cleanup`.

Privileges go by setpriv (util-linux): it sets the death signal after the change of uid, which would clear it, and no Python runs
between fork and exec. Spawn from the event loop's own thread only: the death signal follows the thread that spawned.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness import freshness, tasks
from harness.errors import ConfigError, Fault, UnavailableError, UnwritableError
from harness.specs import User
from harness.system import files, procfs

_CAPABILITIES = {"net_bind_service": 10}  # linux/capability.h
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # of the system's own programs, whatever this process was given
MAX_LINE_BYTES = 8192  # journald's own default for one line is 48 KiB; no proxy line comes near this


@dataclass(frozen=True, slots=True)
class Command:
    """`piped`: stdout is read by the caller instead of being logged. `stop_seconds`: what it may take to end by itself.
    `capabilities`: names as setpriv(1) has them, which the child keeps where this process holds them. `umask`: -1 is our own."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: User | None = None
    piped: bool = False
    stop_seconds: float = 10.0
    capabilities: tuple[str, ...] = ()
    umask: int = -1


def python_module(name: str, module: str, *arguments: str, user: User | None = None, piped: bool = False) -> Command:
    """One of our own modules as a child, from wherever this package is installed."""
    root = str(Path(__file__).resolve().parents[2])
    argv = (sys.executable, "-s", "-m", module, *arguments)
    return Command(name, argv, {"PYTHONPATH": root}, user, piped)


def find_user(name: str, key: str = "proxy.user") -> User:
    """The uid and gid of a system user's name or number; ConfigError, under the configuration's `key`, if there is none."""
    try:
        if name.isdigit():
            with contextlib.suppress(KeyError):
                entry = pwd.getpwuid(int(name))
                return User(entry.pw_uid, entry.pw_gid)
            return User(int(name), int(name))
        entry = pwd.getpwnam(name)
    except KeyError:
        fault = Fault(key, f"there is no user {name!r}", "the package creates the users it needs; or give a number")
        raise ConfigError((fault,)) from None
    return User(entry.pw_uid, entry.pw_gid)


def name_of(uid: int) -> str:
    """The user's name; the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def raise_file_limit() -> None:
    """Children inherit it: the proxy needs about 2 descriptors per connection, and 1024 is the usual soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def port_taken(port: int) -> bool:
    """Whether something in this network namespace listens on the TCP port."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 — bound for an instant, never listened on
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == 98:  # EADDRINUSE; a missing IPv6 is no answer
                    return True
    return False


class Child:
    """A running child; made by Processes.spawn."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process, record: Path) -> None:
        self.command, self.name = command, command.name
        self.pid = process.pid
        self._process = process
        self._record = record
        self._output: list[asyncio.Task[None]] = []

    @property
    def stdout(self) -> asyncio.StreamReader:
        if self._process.stdout is None or not self.command.piped:
            raise UnavailableError(f"the output of {self.command.name} is not piped")
        return self._process.stdout

    def log_output(self, on_line: Callable[[str, str], None]) -> None:
        for stream in (None if self.command.piped else self._process.stdout, self._process.stderr):
            if stream is not None:
                read = partial(_lines, stream, self.command.name, on_line)
                self._output.append(tasks.keep(f"the output of {self.command.name}", read))

    async def wait(self) -> int:
        """The exit status; a negative number is the signal that ended it."""
        code = await self._process.wait()
        if self._output:
            await asyncio.wait(self._output, timeout=1.0)
        _forget(self._record)
        return code

    async def stop(self, grace: float) -> int:
        """TERM, after `grace` seconds KILL, to the whole session."""
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            try:
                return await asyncio.wait_for(self.wait(), seconds)
            except TimeoutError:
                continue
        raise UnavailableError(f"{self.command.name} (pid {self.pid}) does not end, not even by SIGKILL")


async def _lines(stream: asyncio.StreamReader, name: str, on_line: Callable[[str, str], None]) -> None:
    async for line in whole_lines(stream):
        on_line(name, line.decode(errors="replace"))


async def whole_lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a child's output without their ends, each cut to MAX_LINE_BYTES; the last one may lack an end."""
    rest = b""
    while chunk := await stream.read(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line[:MAX_LINE_BYTES]
        rest = rest[:MAX_LINE_BYTES]
    if rest:
        yield rest


class Processes:
    """Spawns children and keeps a record of each under `records`."""

    def __init__(self, records: Path, on_line: Callable[[str, str], None]) -> None:
        self._records = records
        self._on_line = on_line

    async def find(self, name: str) -> None:
        """Children of a daemon end with it: there is nothing to adopt."""

    async def spawn(self, command: Command) -> Child:
        """Raises UnavailableError if the program cannot be started."""
        prefix: list[str] = ["setpriv", "--pdeathsig", "KILL", "--no-new-privs"]
        if command.user is not None:
            user = command.user
            kept = ",".join(["-all", *(f"+{name}" for name in command.capabilities if holds(_CAPABILITIES[name]))])
            prefix += [
                f"--reuid={user.uid}",
                f"--regid={user.gid}",
                "--clear-groups",
                f"--inh-caps={kept}",
                f"--bounding-set={kept}",
            ]
            prefix += [f"--ambient-caps={kept}"] if "+" in kept else []
        if not os.access(command.argv[0], os.X_OK):
            raise UnavailableError(f"{command.argv[0]} is not there or not executable", f"it is needed to run {command.name}")
        process = await asyncio.create_subprocess_exec(
            *prefix,
            "--",
            *command.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": PATH, **command.env},
            start_new_session=True,
            cwd="/",
            umask=command.umask,
        )
        record = self._records / f"{command.name}.json"
        try:
            data = {"name": command.name, "pid": process.pid, "start_time": start_time(process.pid)}
            files.write_json(record, data, mode=0o644)
        except UnavailableError:
            os.killpg(process.pid, signal.SIGKILL)  # nobody would find it after us, nor what it has started
            await process.wait()
            raise
        child = Child(command, process, record)
        child.log_output(self._on_line)
        return child


def holds(bit: int) -> bool:
    """Whether this process has the capability (linux/capability.h), and so may give it to a child."""
    status = Path("/proc/self/status").read_text()
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    return bool(effective >> bit & 1)


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a living process: together with the pid it names one process for good."""
    found = procfs.look(pid)
    # A zombie only waits for its parent: it is gone.
    return None if found is None or found.state in freshness.GONE else found.started


@dataclass(frozen=True, slots=True)
class Orphan:
    """A recorded child that still runs although its daemon is gone."""

    name: str
    pid: int
    record: Path

    def __str__(self) -> str:
        return f"end {self.name} (pid {self.pid})"


def orphans(records: Path) -> tuple[Orphan, ...]:
    """Children on record that still run; records of those that do not are removed."""
    found = []
    for record in sorted(records.glob("*.json")):
        if (orphan := recorded(record)) is not None:
            found.append(orphan)
        else:
            _forget(record)
    return tuple(found)


def _forget(record: Path) -> None:
    """What cannot be removed, such as a folder in its place, is named at the next start of that child."""
    with contextlib.suppress(UnwritableError):
        files.remove(record)


def recorded(record: Path) -> Orphan | None:
    """The child on record, if it still runs."""
    data = files.read_json(record)
    try:
        orphan = Orphan(str(data["name"]), int(data["pid"]), record)
        started = data["start_time"]
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return orphan if started is not None and start_time(orphan.pid) == started else None


async def end(orphan: Orphan, grace: float) -> None:
    """TERM, grace, KILL for a process that is not our child; returns when it is gone."""
    started = start_time(orphan.pid)
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(orphan.pid, number)
        for _ in range(int(seconds / 0.02) + 1):
            if start_time(orphan.pid) != started:
                _forget(orphan.record)
                return
            await asyncio.sleep(0.02)
