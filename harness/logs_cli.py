"""`meshexp logs`: what harness, proxy and split DNS have logged, in one order: from the journal, or from the file of a daemon
that systemd did not start.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from harness import paths, status_cli
from harness.errors import PermissionError_, UnavailableError
from harness.system import units


def run(follow: bool, lines: int, instance: str) -> int:
    """Becomes journalctl or tail. Raises UnavailableError where neither has something to read."""
    journalctl = shutil.which("journalctl")
    if journalctl is not None and units.booted():
        chosen = (f"--unit={units.unit_name(name, instance)}" for name in ("harness", "proxy", "dns"))
        # The units may have been given a LogNamespace=; without one the journal is the same.
        _become(journalctl, "--namespace=*", *chosen, f"--lines={lines}", *(("--follow",) if follow else ()))
    if (file := _standard_error()) is not None:
        _become(shutil.which("tail") or "/usr/bin/tail", f"--lines={lines}", *(("--follow",) if follow else ()), "--", str(file))
    raise UnavailableError(
        "there is no journal on this machine, and no running daemon whose standard error is a file",
        "without systemd both log to the daemon's standard error: see what started it",
    )


def _standard_error() -> Path | None:
    """The running daemon's, where that is a file. By this path the kernel opens it, also when its name has been removed."""
    pid = status_cli.read(paths.from_environment()).get("pid")
    file = Path(f"/proc/{pid}/fd/2")
    try:
        return file if pid is not None and stat.S_ISREG(file.stat().st_mode) else None
    except FileNotFoundError:
        return None
    except PermissionError:
        raise PermissionError_(f"what the daemon (pid {pid}) has logged can be read by root only", "run it with sudo") from None


def _become(*argv: str) -> None:
    os.execv(argv[0], argv)  # noqa: S606
