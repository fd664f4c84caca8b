"""What systemd is told, and the journal: by systemd-python where it is there for this Python."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

try:
    from systemd import daemon, journal
except ImportError:  # optional: a container has no use for it, and not every Python has it
    daemon = journal = None

MAX_CHARACTERS = 900  # systemd takes 4096 bytes, and a character may have four
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def notify(**fields: str | int) -> None:
    """sd_notify(3): `notify(READY=1, STATUS="…")`; does nothing without a supervisor, or with one that does not take it.

    A value is one line, and is cut off where systemd would not take the message.
    """
    values = {name: " ".join(str(value).split())[:MAX_CHARACTERS] for name, value in fields.items()}
    with contextlib.suppress(OSError):
        _send("\n".join(f"{name}={value}" for name, value in values.items()))


def _send(text: str) -> None:
    if daemon is not None:
        daemon.notify(text)
    elif address := os.environ.get("NOTIFY_SOCKET"):
        # EL 9's newer Pythons have no systemd-python; the protocol is one datagram.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as supervisor:
            supervisor.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def beat(longest: float) -> float:
    """Seconds until the watchdog wants to be fed: half of what the unit allows, see sd_watchdog_enabled(3), or `longest`."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    ours = os.environ.get("WATCHDOG_PID") == str(os.getpid())
    return min(longest, int(allowed) / 2e6) if ours and allowed.isdecimal() else longest


def feed(seconds: float) -> None:
    """Feeds the watchdog for so long, while a step of the cycle takes longer than the unit allows, such as a stop that waits for
    open connections. What hangs the loop itself still starves it. Needs a running loop."""
    if not supervised():
        return
    notify(WATCHDOG=1)
    if seconds > 0:
        pause = min(beat(15.0), seconds)
        asyncio.get_running_loop().call_later(pause, feed, seconds - pause)


def supervised() -> bool:
    """Whether somebody is there to be notified."""
    return "NOTIFY_SOCKET" in os.environ


def journal_sender() -> Callable[[dict[str, Any]], None] | None:
    """A function that writes one log event as journal fields, when stderr is connected to the journal."""
    if journal is None or "JOURNAL_STREAM" not in os.environ:
        return None

    def send(event: dict[str, Any]) -> None:
        message = str(event.pop("event", ""))
        priority = _PRIORITY.get(str(event.pop("level", "info")), 6)
        details = " ".join(f"{k}={v}" for k, v in event.items())
        fields = {f"MESHEXP_{k.upper()}": str(v) for k, v in event.items() if k.isidentifier()}
        journal.send(f"{message} {details}".rstrip(), PRIORITY=priority, SYSLOG_IDENTIFIER="meshexp-harness", **fields)

    return send
