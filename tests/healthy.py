"""What a log has that is no sign of health."""

from __future__ import annotations

import json


def worse_than_info(log: str) -> list[str]:
    """Its lines; one that is no JSON is a crash of the program itself."""
    found = []
    for line in log.splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("level") not in ("debug", "info"):
            found.append(line)
    return found
