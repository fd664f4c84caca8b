"""A line of SPIRE's JSON log: its level and one line of text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_LEVELS = {"trace": "debug", "debug": "debug", "info": "info", "warning": "warning", "error": "error", "fatal": "error"}
_TOKEN = re.compile(r"(/join_token/)[^\s,)\"]+")  # the ID of an agent that came by one; it may be another's, not yet used
_DETAILS = ("error", "spiffe_id", "expiration", "plugin_name")


@dataclass(frozen=True, slots=True)
class Line:
    """`failure`: it tells of an error, which SPIRE also does at level warning while it tries again."""

    level: str
    text: str
    failure: bool = False


def parse(line: bytes) -> Line:
    """A line that is no JSON (a crash) counts as an error."""
    try:
        data = json.loads(line)
        text = str(data["msg"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return Line("error", line.decode(errors="replace").strip(), failure=True)
    details = ", ".join(f"{name}: {data[name]}" for name in _DETAILS if data.get(name))
    level = _LEVELS.get(str(data.get("level")), "info")
    failure = level == "error" or (level == "warning" and "error" in data)
    return Line(level, _TOKEN.sub(r"\1…", f"{text} ({details})" if details else text), failure)
