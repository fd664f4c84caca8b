"""The one reader of status.json: bounded, checked against the table of its fields, and judged by whether it still counts."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from harness import freshness, phrases, status_fields
from harness.errors import HarnessError
from harness.paths import LOCK
from harness.status import Phase
from harness.system import files, procfs

PIDS = 2**22
"""The kernel's own limit (proc(5), pid_max)."""


def read(path: Path, instance: str = "") -> dict[str, Any]:
    """What a daemon says in `path` if that counts; otherwise phase Stopped or Unknown, and why in `message`. Raises nothing."""
    found = _read(path, instance)
    if found["phase"] != Phase.STOPPED.text:
        return found
    try:
        if not files.is_locked(path.with_name(LOCK)):
            return found
    except HarnessError as error:
        return freshness.unreadable(error.message)
    why = _no_room(path)
    return freshness.unreadable(f"a daemon runs here and cannot say how things stand: {why}") if why else found


def _read(path: Path, instance: str) -> dict[str, Any]:
    try:
        data = files.load_json(path)
        if fault := status_fields.fault(data):
            raise ValueError(fault)
        if not (isinstance(data["pid"], int) and 0 < data["pid"] <= PIDS):
            raise ValueError(f"pid {data['pid']} is not that of a process")
    except FileNotFoundError:
        return freshness.stopped("no meshexp-harness runs here")
    except PermissionError:
        return freshness.unreadable(f"{path} cannot be read by this user: run it with sudo")
    except (OSError, ValueError) as error:
        return freshness.unreadable(f"{path} cannot be read: {_reason(error)}; `meshexp check` looks at the rest")
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    ways = freshness.Ways(lambda: start(instance), lambda: _restart(data["pid"], instance), lambda: _no_room(path))
    return freshness.judged(data, procfs.look(data["pid"]), uptime, ways)


def _no_room(path: Path) -> str:
    """Why nobody could write another snapshot there; empty when one could."""
    folder = path.parent
    try:
        system = os.statvfs(folder)
        needed = (path.stat().st_size if path.exists() else 0) + system.f_frsize
    except OSError:
        return ""
    read_only, full, no_inode = phrases.NO_ROOM
    if system.f_flag & os.ST_RDONLY:
        return f"{folder} {read_only}; `findmnt -T {folder}` shows it"
    if system.f_bfree * system.f_frsize < needed:
        return f"the disk at {folder} {full}; `df -h {folder}` shows it"
    if system.f_files and not system.f_ffree:
        return f"the disk at {folder} {no_inode}; `df -i {folder}` shows it"
    return ""


def _reason(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)


def start(instance: str) -> str:
    """The command that starts a daemon, which takes over what one before it has left."""
    from harness.system import units

    if units.booted():
        return f"`systemctl start {units.unit_name('harness', instance)}`"
    return f"`meshexp run{f' --instance {instance}' if instance else ''}`"


def stop(pid: str, instance: str) -> str:
    """The command by which a daemon takes all away that it has set, and ends."""
    from harness.system import units  # heavy, and needed for this alone

    if units.booted():
        return f"`systemctl stop {units.unit_name('harness', instance)}`"
    return f"`kill {pid}`"


def _restart(pid: int, instance: str) -> str:
    from harness.system import units  # heavy, and needed for this alone

    if units.booted():
        return f"`systemctl restart {units.unit_name('harness', instance)}` starts another, and traffic goes on meanwhile"
    return f"`kill -KILL {pid}` ends it; then start it again"
