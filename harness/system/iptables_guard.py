"""Puts new iptables rules on trial and the old ones back, whatever becomes of the process that asked.

Its own session and no parent-death signal: when the asker dies, its end of the pipe closes, and that ends the trial.
Standard input: one JSON object {"new", "old", "seconds", "record"}, then `confirm`. Standard output: one JSON object after each.
`record`: the file that the asker has put `old` in, for when this process is killed too. It is removed when the trial has ended,
but it stays where `old` could not be put back.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Request = dict[str, Any]
"""By family, `4` or `6`: what iptables_child takes."""


_QUICK = {"PATH": "/usr/sbin:/sbin"} | ({"SETUPTOOLS_USE_DISTUTILS": "stdlib"} if sys.version_info < (3, 12) else {})
"""Importing python-iptables looks for its libraries by trial links (no compiler on this PATH), and takes all of setuptools along
for one call into distutils: without both it is five times as fast, and needs no directory that it can write."""


def environment() -> dict[str, str]:
    """For a process that is to import this package from wherever it is installed."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def ask(family: str, request: Request) -> dict[str, Any]:
    """One iptables_child's answer. Blocking. A crash of the library is an answer too."""
    run = subprocess.run(
        [sys.executable, "-m", "harness.system.iptables_child", family],
        input=json.dumps(request).encode(), capture_output=True, check=False, env=environment() | _QUICK,
    )  # fmt: skip
    if run.returncode:
        reason = f"signal {-run.returncode}" if run.returncode < 0 else run.stderr.decode(errors="replace").strip()[-300:]
        return {"error": f"python-iptables crashed: {reason}", "kind": "temporary"}
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def ask_all(requests: dict[str, Request]) -> dict[str, dict[str, Any]]:
    """Every family's answer, both asked at the same time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(requests, pool.map(ask, requests, requests.values()), strict=True))


def replace(requests: dict[str, Request]) -> dict[str, Any]:
    """Empty when all went well, else the first family's answer that has an `error`."""
    return next((answer for answer in ask_all(requests).values() if "error" in answer), {})


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
    fault = {} if confirmed else replace(order["old"])
    if fault:
        answer = fault | {"restored": False}
    elif order["record"]:
        Path(order["record"]).unlink(missing_ok=True)
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
