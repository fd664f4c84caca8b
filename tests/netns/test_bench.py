"""A benchmark that is terminated leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from tests.mesh import ROOT
from tests.waiting import wait


def running(mark: str) -> list[str]:
    """The processes that have inherited this variable."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"MARK={mark}".encode() in environ.read_bytes():
                found.append(environ.parent.name)
    return found


def test_it_ends_what_it_has_started() -> None:
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "bench", "status"]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"MARK": mark}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as bench:
        wait(lambda: len(running(mark)) > 4)
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(60) == 128 + signal.SIGTERM
    wait(lambda: running(mark) == [])
