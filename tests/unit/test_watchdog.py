"""A stop that takes longer than the watchdog of the unit allows is not killed by it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.mesh import ROOT

PROGRAM = """
import asyncio, os
from harness.system import systemd

async def main():
    systemd.feed(0.3)
    await asyncio.sleep(0.6)
    systemd.notify(STATUS="after it")

os.environ |= {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())}
asyncio.run(main())
"""


def test_the_watchdog_is_fed_for_as_long_as_a_step_may_take(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        environ = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        subprocess.run([sys.executable, "-c", PROGRAM], check=True, cwd=ROOT, env=environ, timeout=60)
        supervisor.setblocking(False)
        told: list[bytes] = []
        while not told or not told[-1].startswith(b"STATUS"):
            told.append(supervisor.recv(4096).strip())
    assert told[:-1] == [b"WATCHDOG=1"] * (len(told) - 1) and len(told) > 3, "each half of what the unit allows"
