"""Puts new iptables rules on trial and the old ones back, whatever becomes of the process that asked.

Its own session and no parent-death signal: when the asker dies, its end of the pipe closes, and that ends the trial.
Standard input: one JSON object {"new", "old", "seconds"}, then `confirm`. Standard output: one JSON object after each.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Request = dict[str, Any]
"""By family, `4` or `6`: what iptables_child takes."""


def environment() -> dict[str, str]:
    """For a process that is to import this package from wherever it is installed."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def ask(family: str, request: Request) -> dict[str, Any]:
    """One iptables_child's answer. Blocking. A crash of the library is an answer too."""
    run = subprocess.run(
        [sys.executable, "-m", "harness.system.iptables_child", family],
        input=json.dumps(request).encode(), capture_output=True, check=False, env=environment(),
    )  # fmt: skip
    if run.returncode:
        reason = f"signal {-run.returncode}" if run.returncode < 0 else run.stderr.decode(errors="replace").strip()[-300:]
        return {"error": f"python-iptables crashed: {reason}", "kind": "temporary"}
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def replace(requests: dict[str, Request]) -> dict[str, Any]:
    """Every family in turn; the first error ends it and is the answer."""
    for family, request in requests.items():
        if "error" in (answer := ask(family, request)):
            return answer
    return {}


def main() -> None:
    line = _line(float("inf"))
    if not line:
        return
    order = json.loads(line)
    answer = replace(order["new"])
    confirmed = False
    if "error" not in answer and _say({"applied": True}):
        confirmed = _line(time.monotonic() + order["seconds"]) == "confirm"
        answer = {"confirmed": confirmed}
    if not confirmed:
        replace(order["old"])
    _say(answer)


_buffer = b""


def _line(deadline: float) -> str:
    """The next line of standard input; empty when the asker has gone or the time is over."""
    global _buffer
    while b"\n" not in _buffer:
        left = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        data = os.read(0, 65536) if select.select([0], [], [], left)[0] else b""
        if not data:
            return ""
        _buffer += data
    line, _, _buffer = _buffer.partition(b"\n")
    return line.decode()


def _say(answer: dict[str, Any]) -> bool:
    try:
        os.write(1, json.dumps(answer).encode() + b"\n")
    except BrokenPipeError:
        return False
    return True


if __name__ == "__main__":
    main()
