"""`meshexp cordon|uncordon|drain`: keeps new traffic away from this machine, which stays a member of the mesh.

It is a file in the state directory, so it outlives restarts and reboots; the daemon, woken by a signal, tells the controller.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness import phrases, status_cli, times
from harness.errors import ConfigError, TemporaryError
from harness.paths import Paths
from harness.status import Phase
from harness.system import cordon as cordon_file
from harness.system import files, privileges, procfs
from harness.system.cordon import Cordon
from harness.terminal import Answer

if TYPE_CHECKING:
    from harness.config import schema

POLL_SECONDS = 0.05
TOLD_SECONDS = 10.0
DEFAULT_REASON = "cordoned by an operator"
UNKNOWN_SPREAD_SECONDS = 2.0
"""Before the controller has told how long an endpoint change takes."""


def cordon(paths: Paths, reason: str | None, answer: Answer) -> int:
    """Without a reason the one that is there stays."""
    privileges.check("cordon")
    made = _set(paths, reason)
    told = _told(paths, lambda reported: reported.get("reason") == "Cordoned")
    if told:
        answer.say(f"cordoned: {made.reason}; the controller has taken this machine out of its endpoints")
    return answer.end(0, cordoned=True, reason=made.reason, controller_told=told)


def uncordon(paths: Paths, answer: Answer) -> int:
    privileges.check("uncordon")
    before = cordon_file.read(paths.cordon)
    if before is None:
        answer.say("not cordoned")
        return answer.end(0, cordoned=False, reason=None, controller_told=False)
    files.remove(paths.cordon)
    since = f", since {times.moment(before.since)}" if before.since else ""
    answer.say(f"it was cordoned: {before.reason or 'the reason cannot be read'}{since}")
    told = _told(paths, lambda reported: reported.get("reason") != "Cordoned")
    if told:
        answer.say("uncordoned; traffic comes again when the machine is ready")
    return answer.end(0, cordoned=False, reason=before.reason, controller_told=told)


def drain(paths: Paths, reason: str | None, timeout: float | None, answer: Answer) -> int:
    """Cordons, waits until peers have heard, then until the connections that are open have ended; 1 when some have not."""
    from harness.daemon import head_start
    from harness.system import tcp_sockets

    privileges.check("drain")
    config = _config(paths)
    deadline = time.monotonic() + (config.drain.deadline if timeout is None else timeout)
    made = _set(paths, reason)
    if told := _told(paths, lambda reported: reported.get("reason") == "Cordoned"):
        known = head_start.known_registration(paths)
        spread = known.drain_seconds if known else UNKNOWN_SPREAD_SECONDS
        answer.say(f"cordoned: {made.reason}; {spread:g} s for the endpoint change to spread")
        time.sleep(max(0.0, min(spread, deadline - time.monotonic())))
    port = config.proxy.inbound_port
    said = -1
    while (number := tcp_sockets.open_connections(port)) and time.monotonic() < deadline:
        if number != said:
            answer.say(f"{_connections(number)} open")
            said = number
        time.sleep(POLL_SECONDS)
    answer.say(f"{_connections(number)} still open" if number else "drained: no connection is open")
    return answer.end(1 if number else 0, cordoned=True, reason=made.reason, controller_told=told, open_connections=number)


def _connections(number: int) -> str:
    return phrases.counted(number, "connection is", "connections are")


def _config(paths: Paths) -> schema.Config:
    """Of the files; while they are wrong, what the member has in force. Raises ConfigError."""
    from harness.config import load
    from harness.daemon import in_force

    try:
        return load.of_member(paths, os.environ)
    except ConfigError as error:
        before = in_force.kept(paths, error.message)
        if before is None:
            raise
        return before.config


def _set(paths: Paths, reason: str | None) -> Cordon:
    """Another reason takes the place of the one that is there only when it is given: a drain is no reason of its own."""
    before = cordon_file.read(paths.cordon)
    known = before.reason if before is not None else ""
    since = before.since if before is not None else time.time()
    made = Cordon(cordon_file.one_line(reason or "") or known or DEFAULT_REASON, since)
    if made != before:
        cordon_file.write(paths.cordon, made)
    return made


def _told(paths: Paths, done: Callable[[dict[str, Any]], bool]) -> bool:
    """False when there is no member to take out; raises TemporaryError when the controller does not hear it in time."""
    status = status_cli.read(paths)
    if status["phase"] == Phase.UNKNOWN.text:
        raise TemporaryError(
            f"the controller does not hear of it: {status['message']}", "it counts as soon as the daemon goes on"
        )
    if status["phase"] == Phase.STOPPED.text and paths.status.exists():
        # It was killed, and has not deregistered: the cluster sends until the lease has ended.
        raise TemporaryError(
            f"the controller does not hear of it: {status['message']}",
            "it counts from the next start on; until this machine's lease has ended, peers may still send here",
        )
    if "reported" not in status:
        runs = status["phase"] != Phase.STOPPED.text
        unheard = "meshexp-harness has not joined the mesh yet; it counts as soon as it has"
        print(unheard if runs else "no meshexp-harness runs here; it counts from the next start on", file=sys.stderr)
        return False
    procfs.of_status(status).send(signal.SIGUSR2)
    deadline = time.monotonic() + TOLD_SECONDS
    while time.monotonic() < deadline:
        reported = status_cli.read(paths).get("reported")
        if reported is not None and done(reported):
            return True
        time.sleep(POLL_SECONDS)
    raise TemporaryError(
        "the controller has not heard of it yet", "it is told as soon as it answers; `meshexp status` says what keeps it"
    )
