"""Processes of this machine, by what they were started with."""

from __future__ import annotations

import contextlib
from pathlib import Path


def with_words(text: str) -> list[int]:
    """Pids of all whose command line has this text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text in (folder / "cmdline").read_text(errors="replace"):
                found.append(int(folder.name))
    return found
