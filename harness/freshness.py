"""Whether a snapshot still counts: by its age, and by what the kernel says of the process that wrote it. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.status import Phase, Truth

VALID_LEAST, VALID_MOST = 5.0, 60.0
"""Seconds. Below the least, a busy machine would be taken for one that hangs."""
BEAT_MOST = 15.0
ROUNDED = 0.01
"""Seconds. A time that was rounded to thousandths may lie a little in the future."""
GONE, STOPPED = ("Z", "X"), ("T",)
"""States of proc(5). Stopped by a tracer (t) is none: each system call under strace is that for a moment."""


@dataclass(frozen=True, slots=True)
class Process:
    """`state`: a letter of proc(5), empty when it cannot be seen. `started`: field 22 there, None when it cannot be seen."""

    state: str
    started: int | None


def valid_seconds(lease_seconds: float | None) -> float:
    """How long a snapshot counts after it was written: as long as the cluster counts on the machine, within bounds."""
    return VALID_MOST if lease_seconds is None else min(max(lease_seconds, VALID_LEAST), VALID_MOST)


def beat_seconds(lease_seconds: float | None) -> float:
    """How often a daemon at rest writes: early enough for a cycle to end before the snapshot is too old."""
    return min(valid_seconds(lease_seconds) / 3, BEAT_MOST)


@dataclass(frozen=True, slots=True)
class Ways:
    """What to say about a daemon that does not write.

    `start`, `restart`: how to get another one, in the place of one that has ended, or of one that hangs. `no_room`: why none
    could write a snapshot now; empty when one could.
    """

    start: Callable[[], str]
    restart: Callable[[], str]
    no_room: Callable[[], str] = lambda: ""


def judged(data: Mapping[str, Any], process: Process | None, uptime: float, ways: Ways) -> dict[str, Any]:
    """The snapshot if it still counts; otherwise another with the phase Stopped, or Unknown with what was last known.

    `process`: what has the snapshot's pid now. `uptime`: Clock.boot().
    """
    written = data.get("written")
    age = uptime - float(written["uptime"]) if written else 0.0
    if process is None or process.state in GONE or _is_another(process, data.get("pid_started")) or age < -ROUNDED:
        left = f"the daemon (pid {data['pid']}) has ended without a clean stop; what it had set is left for the next one"
        return stopped(f"{left}, which takes it over: {ways.start()}")
    if process.state in STOPPED:
        text = f"the daemon (pid {data['pid']}) is stopped (state {process.state}) and has not written for {age:.0f} s"
        return _unknown(data, age, f"{text}; `kill -CONT {data['pid']}` lets it go on")
    if written and age > float(written["valid_seconds"]):
        text = f"the daemon (pid {data['pid']}) has not written for {age:.0f} s"
        if full := ways.no_room():
            return _unknown(data, age, f"{text}: {full}")
        why = f"it hangs (state {process.state})" if process.state else "it hangs or is stopped"
        return _unknown(data, age, f"{text}: {why}; {ways.restart()}")
    return dict(data)


def _is_another(process: Process, started: int | None) -> bool:
    """Whether the pid has been given to another process; no when one of the two starts is not known."""
    if process.started is None or started is None:
        return False
    return process.started != started


def stopped(message: str) -> dict[str, Any]:
    return {"phase": Phase.STOPPED.text, "ready": False, "message": message}


def unreadable(message: str) -> dict[str, Any]:
    return {"phase": Phase.UNKNOWN.text, "ready": False, "message": message}


def _unknown(data: Mapping[str, Any], age: float, message: str) -> dict[str, Any]:
    """What was last known, with each condition Unknown: none of it is certain now."""
    known = dict(data) | unreadable(message)
    if "phase_number" in known:
        conditions = [
            condition | {"status": Truth.UNKNOWN.value, "message": f"{age:.0f} s ago: {condition['message']}"}
            for condition in data["conditions"]
        ]
        since = data["written"]["at"] if "written" in data else data["since"]
        number = Phase.UNKNOWN.number
        known |= {"phase_number": number, "reason": Phase.UNKNOWN.text, "since": since, "conditions": conditions}
    return known
