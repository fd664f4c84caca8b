"""Processes of this machine: by what they were started with, and by who started them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from harness.system import process


def with_words(text: str) -> list[int]:
    """Pids of all whose command line has this text, which must be one that only the caller's own have."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text in (folder / "cmdline").read_text(errors="replace"):
                found.append(int(folder.name))
    return found


@dataclass(frozen=True, slots=True)
class Process:
    """One that may end: its pid is given to another then, its start is not."""

    pid: int
    started: int
    """In ticks since the boot."""

    @property
    def lives(self) -> bool:
        return process.start_time(self.pid) == self.started


def family(pid: int) -> list[Process]:
    """Process `pid` and all that it and its children have started so far, also in process namespaces of their own."""
    found = []
    with contextlib.suppress(OSError):
        if started := process.start_time(pid):
            found.append(Process(pid, started))
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found
