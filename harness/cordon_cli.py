"""`meshexp cordon|uncordon|drain`: keeps new traffic away from this machine, which stays a member of the mesh.

It is a file in the state directory, so it outlives restarts and reboots; the daemon, woken by a signal, tells the controller.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from harness import status_cli
from harness.errors import ConfigError, TemporaryError
from harness.paths import Paths
from harness.status import Phase, harmless
from harness.system import files, privileges

if TYPE_CHECKING:
    from harness.config import schema

POLL_SECONDS, TOLD_SECONDS = 0.05, 10.0
LATEST = 1e11
"""Epoch seconds in the year 5138; the C library has no date for much later ones."""
DEFAULT_REASON = "cordoned by an operator"
UNKNOWN_SPREAD_SECONDS = 2.0
"""Before the controller has told how long an endpoint change takes."""


@dataclass(frozen=True, slots=True)
class Cordon:
    """`since`: epoch seconds, 0 when that is not known."""

    reason: str
    since: float


def cordon(paths: Paths, reason: str | None) -> int:
    """Without a reason the one that is there stays."""
    privileges.check("cordon")
    made = _set(paths, reason)
    if _told(paths, lambda reported: reported.get("reason") == "Cordoned"):
        print(f"cordoned: {made.reason}; the controller has taken this machine out of its endpoints")
    return 0


def uncordon(paths: Paths) -> int:
    privileges.check("uncordon")
    before = kept(paths)
    if before is None:
        print("not cordoned")
        return 0
    files.remove(paths.cordon)
    since = f", since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(before.since))}" if before.since else ""
    print(f"it was cordoned: {before.reason}{since}")
    if _told(paths, lambda reported: reported.get("reason") != "Cordoned"):
        print("uncordoned; traffic comes again when the machine is ready")
    return 0


def drain(paths: Paths, reason: str | None, timeout: float | None) -> int:
    """Cordons, waits until peers have heard, then until the connections that are open have ended; 1 when some have not."""
    from harness.daemon import head_start
    from harness.system import tcp_sockets

    privileges.check("drain")
    config = _config(paths)
    deadline = time.monotonic() + (config.drain.deadline if timeout is None else timeout)
    made = _set(paths, reason)
    if _told(paths, lambda reported: reported.get("reason") == "Cordoned"):
        known = head_start.known_registration(paths)
        spread = known.drain_seconds if known else UNKNOWN_SPREAD_SECONDS
        print(f"cordoned: {made.reason}; {spread:g} s for the endpoint change to spread", flush=True)
        time.sleep(max(0.0, min(spread, deadline - time.monotonic())))
    port, said = config.proxy.inbound_port, -1
    while (number := tcp_sockets.open_connections(port)) and time.monotonic() < deadline:
        if number != said:
            print(f"{_connections(number)} open", flush=True)
            said = number
        time.sleep(POLL_SECONDS)
    print(f"{_connections(number)} still open" if number else "drained: no connection is open")
    return 1 if number else 0


def _connections(number: int) -> str:
    return "1 connection is" if number == 1 else f"{number} connections are"


def _config(paths: Paths) -> schema.Config:
    """Of the files; while they are wrong, what the member has in force. Raises ConfigError."""
    from harness.config import load
    from harness.daemon import in_force

    try:
        return load.load(paths, os.environ)
    except ConfigError as error:
        before = in_force.kept(paths, error.message)
        if before is None:
            raise
        return before.config


def kept(paths: Paths) -> Cordon | None:
    """The cordon that is there."""
    from harness.system import files

    if not paths.cordon.exists():
        return None
    data = files.read_json(paths.cordon)
    since = data.get("since")
    return Cordon(_shown(data.get("reason") or DEFAULT_REASON), float(since) if _is_time(since) else 0.0)


def _is_time(since: object) -> TypeGuard[float]:
    return isinstance(since, float | int) and 0 < since < LATEST


def _shown(reason: object) -> str:
    """In one line, for a terminal."""
    return " ".join(harmless(str(reason)).encode(errors="replace").decode().split()) or DEFAULT_REASON


def _set(paths: Paths, reason: str | None) -> Cordon:
    """Another reason takes the place of the one that is there only when it is given: a drain is no reason of its own."""
    from harness.system import files

    before = kept(paths)
    made = Cordon(
        _shown(reason) if reason else (before.reason if before else DEFAULT_REASON), before.since if before else time.time()
    )
    if made != before:
        files.write_json(paths.cordon, {"reason": made.reason, "since": made.since}, mode=0o644)
    return made


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
