"""A line of SPIRE's JSON log: its level and one line of text."""

from __future__ import annotations

import json
from dataclasses import dataclass

_LEVELS = {"trace": "debug", "debug": "debug", "info": "info", "warning": "warning", "error": "error", "fatal": "error"}
_DETAILS = ("error", "spiffe_id", "expiration", "plugin_name")


@dataclass(frozen=True, slots=True)
class Line:
    level: str
    text: str


def parse(line: bytes) -> Line:
    """A line that is no JSON (a crash) counts as an error."""
    try:
        data = json.loads(line)
        text = str(data["msg"])
    except (ValueError, KeyError, TypeError):
        return Line("error", line.decode(errors="replace").strip())
    details = ", ".join(f"{name}: {data[name]}" for name in _DETAILS if data.get(name))
    return Line(_LEVELS.get(str(data.get("level")), "info"), f"{text} ({details})" if details else text)
