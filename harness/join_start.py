"""Starting and stopping the harness for `join` and `leave`: by systemd, else whatever already runs here, else not at all."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import status_cli
from harness.errors import HarnessError, TemporaryError, UnavailableError
from harness.paths import Paths
from harness.status import Phase
from harness.system import files, procfs, service, snapshot_reader

POLL_SECONDS, STOP_SECONDS, REFUSED_SECONDS = 0.1, 150.0, 3.0
MESH = ("Routes", "Identity", "Registration", "Proxy", "Redirected")
FATAL = (
    "registration-refused",
    *("clock-skew", "certificate-expired", "controller-misnamed", "controller-untrusted", "identity-refused"),
    "proxy-bad-release",
    "identity-ca-unusable",
    "config-invalid",
)
"""Waiting does not help against these."""


@dataclass(frozen=True, slots=True)
class Service:
    """`before`: the unit as it was found; None without systemd. `waits`: a daemon that runs, and waits for a configuration."""

    paths: Paths
    before: service.State | None
    waits: procfs.Known | None

    @classmethod
    def find(cls, paths: Paths) -> Service:
        status = status_cli.read(paths)
        waits = procfs.of_status(status) if status.get("phase") == Phase.WAITING.text else None
        unit = service.unit_of(paths.instance)
        return cls(paths, service.state(unit) if service.managed(unit) else None, waits)

    @property
    def unit(self) -> str:
        return service.unit_of(self.paths.instance)

    def prepare(self, undo: Any, changes: bool) -> None:
        """Before the configuration changes: a member leaves as what it was. What is undone last is said first."""
        active = self.before is not None and self.before.active
        if active:
            undo.add("start the harness as it was", lambda: service.control("start", self.unit))
        undo.add("what the harness kept", new_below(self.paths.state))
        if active and changes and self.waits is None:
            service.control("stop", self.unit)

    def start(self, undo: Any) -> str:
        """What was done; empty when there is nobody here who starts programs."""
        if self.before is not None:
            if not self.before.enabled:
                undo.add("disable the unit", lambda: service.control("disable", self.unit))
                service.control("enable", self.unit)
            undo.add("stop the harness", lambda: service.control("stop", self.unit))
            if self.waits is not None:
                self.waits.send(signal.SIGHUP)  # it looks again, in place
            service.control("start", self.unit)
            return f"{self.unit} is enabled and runs"
        if self.waits is not None:
            daemon = self.waits
            undo.add("stop the harness", lambda: end(daemon, self.paths))
            if not daemon.send(signal.SIGHUP):
                raise TemporaryError(f"the daemon (pid {daemon.pid}) has ended meanwhile", "`meshexp logs` says why")
            return f"pid {daemon.pid} has the configuration now"
        return f"pid {found.pid} runs already" if (found := running(self.paths)) else ""

    def ended(self) -> str:
        """Why there is nothing to wait for; empty while there is."""
        if self.before is not None and service.state(self.unit).failed:
            return f"{self.unit} has failed"
        return ""


def running(paths: Paths) -> procfs.Known | None:
    """The daemon; None without one."""
    pid = files.holder(paths.lock) if files.is_locked(paths.lock) else ""
    if not pid.isdigit() or int(pid) > snapshot_reader.PIDS:
        return None
    if (started := files.holders_start(paths.lock)).isdigit():
        return procfs.Known(int(pid), int(started))
    found = procfs.look(int(pid))  # one of an earlier release, which writes its pid alone, and holds the lock now
    return procfs.Known(int(pid), found.started) if found is not None else None


def end(daemon: procfs.Known, paths: Paths) -> None:
    """TERM, and waits until it has left in good order. Raises TemporaryError when it does not end."""
    daemon.send(signal.SIGTERM)
    daemon.send(signal.SIGCONT)  # one that was stopped hears the other only then
    deadline = time.monotonic() + STOP_SECONDS
    while files.is_locked(paths.lock) or status_cli.read(paths).get("phase") == Phase.WAITING.text:
        if time.monotonic() > deadline:
            raise TemporaryError(f"pid {daemon.pid} has not ended within {STOP_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def wait_ready(paths: Paths, run: Service, steps: Any, seconds: float) -> bool:
    """True when ready; False when all but the application is. Raises when the machine does not become a member in time."""
    from harness.steps import Step

    began, seen, fatal_since = time.monotonic(), set[str](), None
    while True:
        status, now = status_cli.read(paths), time.monotonic()
        conditions = {one["name"]: one for one in status.get("conditions", [])}
        for name, one in conditions.items():
            if one["status"] == "True" and name not in seen:
                seen.add(name)
                steps.add(Step(name, "warning" if one["problem"] else "done", now - began, one["message"]))
        if status.get("phase") == "Ready" and status.get("ready"):
            return True
        waiting = [one for one in conditions.values() if one["status"] != "True"]
        steps.live(f"waiting: {waiting[0]['name']}: {waiting[0]['message']}" if waiting else "waiting for the harness")
        fatal = [one for one in waiting if one["problem"] in FATAL]
        fatal_since = (fatal_since or now) if fatal else None
        if fatal and fatal_since is not None and now - fatal_since > REFUSED_SECONDS:
            raise UnavailableError(f"{fatal[0]['name']}: {fatal[0]['message']}", str(fatal[0]["hint"]))
        if reason := run.ended():
            raise UnavailableError(reason, "`meshexp logs` says why")
        if now - began > seconds:
            return _late(conditions, steps, now - began)
        time.sleep(POLL_SECONDS)


def _late(conditions: dict[str, Any], steps: Any, seconds: float) -> bool:
    from harness.steps import Step

    wrong = [one for name in MESH if (one := conditions.get(name, {"name": name, "message": "nothing is known"}))
             and one.get("status") != "True"]  # fmt: skip
    if wrong:
        said = "; ".join(f"{one['name']}: {one['message']}" for one in wrong)
        raise TemporaryError(
            f"not a member after {seconds:.0f} s: {said}", "give it longer by --wait; `meshexp check --pre` tells more"
        )
    application = conditions.get("Application", {})
    steps.add(
        Step("the application", "warning", seconds, f"{application.get('message', '')}: a member, and no traffic until it passes")
    )
    return False


def try_from_outside(paths: Paths, steps: Any) -> None:
    """Whether peers get in, as the controller finds it. The machine stays a member also if they do not: it can call others.

    It stays one, too, when the look fails or is interrupted.
    """
    from harness import check_cli
    from harness.check import reach
    from harness.check.run import Scope
    from harness.steps import Step

    began = time.monotonic()
    steps.live("waiting: the controller connects to this machine")
    outcome = "skipped"
    try:
        (result,) = [one for one in check_cli.look(paths, Scope.JOINED) if one.category == reach.NAME]
    except HarnessError as error:
        message = error.message
    except KeyboardInterrupt:
        message = "interrupted"
    else:
        message = result.reason or result.description
        if result.problem is not None:
            outcome = "warning"
            message = f"{result.reason}; {result.problem.hint}"
        elif not result.reason:
            outcome = "done"
    steps.add(Step("try the way from peers", outcome, time.monotonic() - began, message))


def new_below(folder: Path) -> Callable[[], None]:
    """Removes what is not in the folder now, and the folder if it is not there now."""
    there = folder.exists()
    before = set(folder.iterdir()) if there else set()

    def back() -> None:
        if not there:
            shutil.rmtree(folder, ignore_errors=True)
            return
        for entry in set(folder.iterdir()) - before:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    return back
