"""What the kernel says of a process."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.freshness import Process


@dataclass(frozen=True, slots=True)
class Known:
    """One process for good: its pid, and when it began (field 22 of proc(5)'s stat), which another with that pid has not.

    `started`: None where nobody has written that down; such a process gets no signal.
    """

    pid: int
    started: int | None

    def send(self, number: int) -> bool:
        """Sends a signal; False when the process has ended, whatever has its pid now."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            # From here on the descriptor is of one process, which is looked at before it is signalled.
            found = look(self.pid)
            if self.started is None or found is None or found.started != self.started:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


def of_status(status: Mapping[str, Any]) -> Known:
    """The daemon that has written a status, which the reader has checked."""
    return Known(int(status["pid"]), status.get("pid_started"))


def own() -> Known:
    found = look(os.getpid())
    return Known(os.getpid(), found.started if found is not None else None)


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
