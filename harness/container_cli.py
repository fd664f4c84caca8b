"""`meshexp container`: the first process of a container, with the daemon and the workload as its children.

The daemon joins the mesh; the workload is started when all it sends goes through the proxy (`container_gate.py`). Its exit ends
the container, with its exit code. SIGTERM takes the container out of the mesh first, while the workload still answers, and then
ends the workload. The redirect outlives it: what the workload sends at its end is refused, and does not leave in plaintext. A
workload that cannot run ends the container before anything is started (`container_workload.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from typing import Any

from harness import __version__, container, container_workload, paths
from harness.backoff import Backoff
from harness.container_gate import Gate
from harness.errors import ConfigError, HarnessError, PermissionError_
from harness.system import init

POLL_SECONDS = 0.05
LOOK_SECONDS = 2.0
WORKLOAD_GRACE_SECONDS = 1.5
CLEANUP_SECONDS = 5.0
RESTARTS = Backoff(first=2.0, most=15.0)
STEADY_SECONDS = 60.0  # a daemon that ran for so long has not ended in a row
# Trying again does not help against these, before there is a workload.
_FINAL = {ConfigError.exit_code, PermissionError_.exit_code}


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    text = "run the daemon and a workload as a container's first process; ends with the workload's exit code"
    verb: argparse.ArgumentParser = subparsers.add_parser("container", help=text, description=text[0].upper() + text[1:] + ".")
    verb.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help=f"the workload; {container_workload.START} if unset"
    )
    return verb


def run(options: argparse.Namespace) -> int:
    where = paths.from_environment()
    command = tuple(options.command) or (container_workload.START,)
    user = os.environ.get("WORKLOAD_USER") or "workload"
    say(f"{__version__}, an image for demonstrations and NOT for production: keys that make identities are in this container")
    if fault := container_workload.fault(command, os.environ, user):
        print(fault, file=sys.stderr)
        return 1
    try:
        setup = container.set_up(os.environ, container.CERTS, where.config)
        container.write(setup, where)
    except HarnessError as error:
        print(error.message, file=sys.stderr)
        return 1
    for warning in setup.warnings:
        say(warning)
    daemon = init.Program(("meshexp", "run", "--keep-redirect"), os.environ)
    workload = init.Program(command, os.environ, user)
    return Container(daemon, workload, where).run()


class Container:
    """Both children and how far the container is: starting, running, leaving, ended."""

    def __init__(self, daemon: init.Program, workload: init.Program, where: paths.Paths) -> None:
        self._programs = {"daemon": daemon, "workload": workload}
        self._status = where.status
        self._gate: Gate | None = Gate(where, say)  # None once the workload has been started
        self._running: dict[str, int] = {}
        self._code: int | None = None  # of the workload, once it has ended
        self._leaving = False
        self._daemon_began = self._start_daemon_at = 0.0
        self._ends = 0  # of the daemon, in a row
        self._kill_at = float("inf")

    def run(self) -> int:
        init.take_signals()
        self._start("daemon")
        while True:
            waiting = self._gate is not None or self._leaving
            self._heard(init.wait(POLL_SECONDS if waiting else LOOK_SECONDS))
            for pid, code in init.ended():
                self._ended(pid, code)
            now = time.monotonic()
            if not self._leaving:
                self._go_on(now)
            elif self._left(now):
                self._clean_up()
                return self._code or 0

    def _go_on(self, now: float) -> None:
        if self._gate is not None and self._gate.open(now):
            self._gate = None
            self._start("workload")
        if "daemon" not in self._running and now >= self._start_daemon_at:
            self._start("daemon")

    def _heard(self, number: int | None) -> None:
        if number in init.STOP:
            self._leave()
        elif number in init.RELOAD:
            self._send("daemon", signal.SIGHUP)
        elif number in init.PASSED_ON:
            self._send("workload", number or 0)

    def _ended(self, pid: int, code: int) -> None:
        name = next((name for name, known in self._running.items() if known == pid), None)
        if name is None:  # an orphan
            return
        del self._running[name]
        # Once the workload runs a wrong configuration ends nothing: the rules keep what it sends from leaving in plaintext.
        if name == "workload" or (code in _FINAL and self._gate is not None and not self._leaving):
            self._code = code
            self._leave()
        elif code == 0 and not self._leaving:
            say("the daemon was told to stop: the container ends too, since its workload reaches nobody in the mesh any more")
            self._leave()
        elif not self._leaving:
            # A daemon that was killed leaves its rules in place: nothing bypasses the proxy meanwhile.
            now = time.monotonic()
            self._ends = self._ends + 1 if now - self._daemon_began < STEADY_SECONDS else 1
            pause = RESTARTS.pause(self._ends)
            say(f"the daemon has ended with {code}; it is started again in {pause:.0f} s")
            self._start_daemon_at = now + pause

    def _leave(self) -> None:
        """The daemon first: the workload is to answer until nobody asks it any more."""
        if not self._leaving:
            self._leaving = True
            self._send("daemon", signal.SIGTERM)

    def _left(self, now: float) -> bool:
        if "daemon" in self._running:
            return False
        if "workload" not in self._running:
            return True
        if self._kill_at == float("inf"):
            self._kill_at = now + WORKLOAD_GRACE_SECONDS
            self._send("workload", signal.SIGTERM)
        elif now >= self._kill_at:
            init.send(self._running["workload"], signal.SIGKILL, session=True)
        return False

    def _clean_up(self) -> None:
        """What the daemon has left for the workload's last moments: its rules. In a network of others they would stay."""
        try:
            pid = init.start(init.Program(("meshexp", "cleanup"), os.environ))
        except HarnessError as error:
            say(error.message)
            return
        until = time.monotonic() + CLEANUP_SECONDS
        while pid not in dict(init.ended()):
            if time.monotonic() >= until:
                say(f"`meshexp cleanup` has not ended within {CLEANUP_SECONDS:.0f} s: rules may be left in a shared network")
                return
            init.wait(POLL_SECONDS)

    def _start(self, name: str) -> None:
        if name == "daemon":
            self._daemon_began = time.monotonic()
            # The status of an earlier daemon, also of one before `docker restart`, is old: another process may have its pid.
            with contextlib.suppress(OSError):
                self._status.unlink(missing_ok=True)
        try:
            self._running[name] = init.start(self._programs[name])
        except HarnessError as error:
            say(error.message)
            self._code = 1
            self._leave()

    def _send(self, name: str, number: int) -> None:
        if pid := self._running.get(name):
            init.send(pid, number)


def say(text: str) -> None:
    print(f"meshexp: {text}", file=sys.stderr, flush=True)
