"""`meshexp cordon|uncordon|drain`: keeps new traffic away from this machine, which stays a member of the mesh.

It is a file in the state directory, so it outlives restarts and reboots; the daemon, woken by a signal, tells the controller.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from harness import status_cli, values
from harness.errors import TemporaryError
from harness.paths import Paths
from harness.status import Phase

POLL_SECONDS, TOLD_SECONDS = 0.05, 10.0


def cordon(paths: Paths, reason: str) -> int:
    _set(paths, reason)
    if _told(paths, lambda reported: reported.get("reason") == "Cordoned"):
        print(f"cordoned: {reason}; the controller has taken this machine out of its endpoints")
    return 0


def uncordon(paths: Paths) -> int:
    from harness.system import files, privileges

    if not paths.cordon.exists():
        print("not cordoned")
        return 0
    privileges.check()
    files.remove(paths.cordon)
    if _told(paths, lambda reported: reported.get("reason") != "Cordoned"):
        print("uncordoned; traffic comes again when the machine is ready")
    return 0


def drain(paths: Paths, reason: str, timeout: float | None) -> int:
    """Cordons, waits until peers have heard, then until the connections that are open have ended; 1 when some have not."""
    from harness.config import load
    from harness.system import files, tcp_sockets

    config = load.load(paths, os.environ)
    deadline = time.monotonic() + (config.drain.deadline if timeout is None else timeout)
    _set(paths, reason)
    if not _told(paths, lambda reported: reported.get("reason") == "Cordoned"):
        return 0
    spread = values.parse_duration(files.read_json(paths.known_registration).get("drain_seconds", 2.0))
    print(f"cordoned: {reason}; {spread:g} s for the endpoint change to spread", flush=True)
    time.sleep(max(0.0, min(spread, deadline - time.monotonic())))
    port, said = config.proxy.inbound_port, -1
    while (number := tcp_sockets.open_connections(port)) and time.monotonic() < deadline:
        if number != said:
            print(f"{number} connections are open", flush=True)
            said = number
        time.sleep(POLL_SECONDS)
    print(f"{number} connections are still open" if number else "drained: no connection is open")
    return 1 if number else 0


def _set(paths: Paths, reason: str) -> None:
    from harness.system import files, privileges

    privileges.check()
    files.write_json(paths.cordon, {"reason": reason, "since": time.time()}, mode=0o644)


def _told(paths: Paths, done: Callable[[dict[str, Any]], bool]) -> bool:
    """False when no daemon runs; raises TemporaryError when the controller does not hear it in time."""
    status = status_cli.read(paths)
    if status["phase"] == Phase.UNKNOWN.text:
        raise TemporaryError(
            f"the controller does not hear of it: {status['message']}", "it counts as soon as the daemon goes on"
        )
    if "reported" not in status:
        print("no meshexp-harness runs here; it counts from the next start on", file=sys.stderr)
        return False
    os.kill(int(status["pid"]), signal.SIGUSR2)
    deadline = time.monotonic() + TOLD_SECONDS
    while time.monotonic() < deadline:
        reported = status_cli.read(paths).get("reported")
        if reported is not None and done(reported):
            return True
        time.sleep(POLL_SECONDS)
    raise TemporaryError(
        "the controller has not heard of it yet", "it is told as soon as it answers; `meshexp status` says what keeps it"
    )
