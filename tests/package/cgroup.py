"""A control group of a machine's own: two systemds in one take each other's services for theirs, and end them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

_MOUNTED = Path("/sys/fs/cgroup")
# In the hierarchies that systemd keeps its services in. Then it becomes what it was to run.
_ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'


def made(name: str) -> tuple[Path, ...]:
    """Its folders, below our own group: one, or with cgroups of version 1 two."""
    folders = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            root = _MOUNTED / "systemd"
        elif not controllers:
            root = _MOUNTED / "unified" if (_MOUNTED / "unified").is_dir() else _MOUNTED
        else:
            continue
        folders.append(root / path.strip("/") / name)
        folders[-1].mkdir(exist_ok=True)
    return tuple(folders)


def within(folders: Sequence[Path], *argv: str) -> list[str]:
    """The command, started in them."""
    return ["sh", "-ec", _ENTER, "sh", *(str(folder) for folder in folders), "--", *argv]


def remove(folders: Sequence[Path]) -> None:
    """With all below, once their processes have ended."""
    for folder in folders:
        for place, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                Path(place).rmdir()
