"""Times as people read them: a moment is `2026-11-30 07:16:12Z`, a length of time is `3 d 4 h`. JSON has RFC 3339, in UTC."""

from __future__ import annotations

import datetime

FORMAT = "%Y-%m-%d %H:%M:%SZ"
FORMAT_IN_LOG = "%Y-%m-%d %H:%M:%S.%fZ"
"""For lines that may come within the same second."""


def moment(wall: float) -> str:
    """`wall`: seconds since the epoch."""
    try:
        return datetime.datetime.fromtimestamp(wall, datetime.UTC).strftime(FORMAT)
    except (OverflowError, ValueError, OSError):  # beyond the calendar
        return "an impossible time"


def seconds_of(rfc3339: str) -> float:
    """Since the epoch. Raises ValueError."""
    return datetime.datetime.fromisoformat(rfc3339).timestamp()


def shown(rfc3339: str) -> str:
    """The moment for people, from RFC 3339, as JSON has it."""
    return moment(seconds_of(rfc3339))


def span(seconds: float) -> str:
    """In the two largest units: `3 d 4 h`, `12 min`, `40 s`."""
    seconds = int(seconds)
    if seconds < 0:
        return f"-{span(-seconds)}"
    days = seconds // 86400
    hours = seconds // 3600 % 24
    minutes = seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds} s"
