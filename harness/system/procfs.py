"""What the kernel says of a process."""

from __future__ import annotations

import os
from pathlib import Path

from harness.freshness import Process


def look(pid: int) -> Process | None:
    """None when there is no such process. Of one that this user may not see, only that it is there."""
    try:
        # Fields 3 and 22 of proc(5); two are before the closing bracket.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return Process(fields[0], int(fields[19]))
    except (OSError, IndexError, ValueError):
        return Process("", None) if _is_hidden(pid) else None


def _is_hidden(pid: int) -> bool:
    """Where /proc is mounted with hidepid, others' processes are not in it."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False
