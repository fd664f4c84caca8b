"""`meshexp status`: prints the daemon's snapshot; imports nothing heavy."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from harness.paths import Paths

POLL_SECONDS = 0.1


def run(paths: Paths, output: str, wait: float | None) -> int:
    """0 when ready, 1 when not or when no daemon runs."""
    deadline = time.monotonic() + (wait or 0.0)
    while True:
        data = read(paths)
        ready = data.get("phase") == "Ready" and bool(data.get("ready"))
        if ready or wait is None or time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    print(json.dumps(data, indent=2) if output == "json" else text(data))
    return 0 if ready else 1


def read(paths: Paths) -> dict[str, Any]:
    """The snapshot of a daemon that lives; phase Stopped otherwise."""
    try:
        data = json.loads(paths.status.read_text())
        alive = Path(f"/proc/{int(data['pid'])}").exists()
    except FileNotFoundError:
        return {"phase": "Stopped", "ready": False, "message": "no meshexp-harness runs here"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"phase": "Stopped", "ready": False, "message": f"{paths.status} cannot be read: {error}"}
    if not alive:
        return {"phase": "Stopped", "ready": False, "message": "the daemon is gone without a clean stop; run `meshexp cleanup`"}
    return dict(data)


_SIGNS = {"True": "√", "False": "×", "Unknown": "…"}


def text(data: dict[str, Any]) -> str:
    lines = [f"{data['phase']}" + (f" since {data['since']}" if "since" in data else "")]
    if data.get("message"):
        lines[0] += f": {data['message']}"
    if workload := data.get("workload"):
        lines.append(
            f"workload   {workload['namespace']}/{workload['name'] or '(not registered)'}  {', '.join(workload['addresses'])}"
        )
        lines.append(f"identity   {workload['identity'] or '(none yet)'}")
    for condition in data.get("conditions", []):
        sign = "‼" if condition["status"] == "True" and condition["problem"] else _SIGNS[condition["status"]]
        lines.append(f"{sign} {condition['name']:<13} {condition['message']}")
        if condition["problem"]:
            lines.append(f"{'':16}{condition['problem']}: {condition['hint']}")
    for name, child in data.get("children", {}).items():
        if child["state"] != "stopped":
            lines.append(f"child {name:<13} {child['state']}" + (f", pid {child['pid']}" if child["pid"] else ""))
    if not sys.stdout.encoding.lower().startswith("utf"):
        return "\n".join(lines).encode("ascii", "replace").decode()
    return "\n".join(lines)
