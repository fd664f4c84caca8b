"""`meshexp status`: prints the daemon's snapshot; imports nothing heavy."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.paths import Paths, configured

POLL_SECONDS, WATCH_SECONDS = 0.1, 0.5


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
    """The snapshot of a daemon that lives; phase Stopped otherwise. Of the machine's first workload, the others' phases too."""
    found = _own(paths)
    others = {} if paths.instance else {where.instance: _own(where) for where in configured(paths)[1:]}
    return found | ({"instances": {name: other["phase"] for name, other in others.items()}} if others else {})


def _own(paths: Paths) -> dict[str, Any]:
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


def watch(paths: Paths, output: str) -> int:
    """Until Ctrl-C: anew at each change, and each second on a terminal, where times run."""
    said = ""
    while True:
        data = read(paths)
        shown = json.dumps(data) if output == "json" else text(data)
        if shown != said:
            clear = "\x1b[H\x1b[2J" if output != "json" and sys.stdout.isatty() else ""
            print(f"{clear}{shown}", flush=True)
            said = shown
        time.sleep(WATCH_SECONDS)


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
    if instances := data.get("instances"):
        others = ", ".join(f"{name} ({phase})" for name, phase in instances.items())
        lines.append(f"others     {others}; `meshexp status --instance NAME`")
    for condition in data.get("conditions", []):
        sign = "‼" if condition["status"] == "True" and condition["problem"] else _SIGNS[condition["status"]]
        lines.append(f"{sign} {condition['name']:<13} {condition['message']}")
        if condition["problem"]:
            lines.append(f"{'':16}{condition['problem']}: {condition['hint']}")
    lines += _details(data)
    if not sys.stdout.encoding.lower().startswith("utf"):
        return "\n".join(lines).encode("ascii", "replace").decode()
    return "\n".join(lines)


def _details(data: dict[str, Any]) -> Iterator[str]:
    """Children with their age, certificates with what is left of them, endpoints, counters."""
    for name, child in data.get("children", {}).items():
        if child["state"] != "stopped":
            age = f", for {span(-left(child['since']))}" if child.get("since") else ""
            yield f"child {name:<13} {child['state']}{age}" + (f", pid {child['pid']}" if child["pid"] else "")
    ends = [f"{name} {span(left(end))}" for name, end in data.get("certificates", {}).items() if end]
    if ends:
        yield f"certificates left    {', '.join(ends)}"
    if endpoints := data.get("endpoints"):
        yield f"endpoints            {', '.join(_endpoint(one) for one in endpoints)}"
    if counters := data.get("counters"):
        words = [f"{sum(counters[kind].values())} {kind}" for kind in ("changes", "failures")]
        yield f"since the start      {counters['cycles']} cycles, {', '.join(words)}"


def _endpoint(one: dict[str, Any]) -> str:
    host = f"[{one['address']}]" if ":" in one["address"] else one["address"]
    return f"{host}:{one['port']}" + (f" ({one['name']})" if one["name"] else "")


def left(iso: str) -> float:
    """Seconds from now until then."""
    return datetime.datetime.fromisoformat(iso).timestamp() - time.time()


def span(seconds: float) -> str:
    """In the two largest units: `3 d 4 h`, `12 min`, `40 s`."""
    seconds = int(seconds)
    if seconds < 0:
        return f"-{span(-seconds)}"
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds} s"
