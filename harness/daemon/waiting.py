"""A machine without a configuration that can be used: the unit is active and says what is missing, instead of failing.

What is in place stays as it is meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping

from harness.check_problems import CONFIG_INVALID
from harness.daemon import needs
from harness.errors import ConfigError
from harness.paths import Paths
from harness.status import Condition, Phase, Truth, encoded
from harness.system import files, systemd, units

LONGEST_SECONDS = 15.0


def run(paths: Paths, environ: Mapping[str, str], error: ConfigError | None) -> int:
    """Until SIGHUP (a fresh process takes this one's place, and looks again) or SIGTERM. `error`: why it waits; None: nobody has
    configured anything. What this machine lacked is looked for again by itself; files are read again at SIGHUP only, since
    they may be half written."""
    numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    _tell(paths, error)
    while (received := signal.sigtimedwait(numbers, systemd.beat(LONGEST_SECONDS))) is None:
        systemd.notify(WATCHDOG=1)
        if isinstance(error, needs.MissingError):
            before, error = error, _look_again(paths, environ)
            if error is None:
                break
            if error.message != before.message:
                _tell(paths, error)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    paths.status.unlink(missing_ok=True)
    if received is None or received.si_signo == signal.SIGHUP:
        systemd.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 — this very program
    systemd.notify(STOPPING=1)
    return 0


def _look_again(paths: Paths, environ: Mapping[str, str]) -> ConfigError | None:
    try:
        needs.configuration(paths, environ)
    except ConfigError as error:
        return error
    return None


def _tell(paths: Paths, error: ConfigError | None) -> None:
    """In `meshexp status`, in systemd's status line, and once in the journal."""
    unit = units.unit_name("harness", paths.instance).removesuffix(".service")
    reload = f"then `systemctl reload {unit}`"
    next_, conditions = f"{_to_configure(paths)}, {reload}", []
    if error is not None:
        next_ = f"correct the faults of the configuration, {reload}"
        conditions.append(encoded(Condition("Configuration", Truth.FALSE, error.message, CONFIG_INVALID)))
    said = {"phase": Phase.WAITING.text, "ready": False, "message": next_, "pid": os.getpid(), "conditions": conditions}
    files.write_json(paths.status, said, mode=0o644)
    text = f"waiting: {next_}" if error else f"waiting for configuration: {next_}"
    systemd.notify(READY=1, STATUS=f"{text}: {error.message}" if error else text)
    print(f"{text}: {error.message}" if error else text, file=sys.stderr, flush=True)


def _to_configure(paths: Paths) -> str:
    instance = f" --instance {paths.instance}" if paths.instance else ""
    return f"run `meshexp join{instance} INVITATION`, or set workload.group and workload.namespace in {paths.harness_yaml}"
