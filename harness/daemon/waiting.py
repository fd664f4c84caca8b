"""A machine without a configuration that can be used: the unit is active and says what is missing, instead of failing.

What is in place stays as it is meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping

from harness import hints
from harness.check_problems import CONFIG_INVALID
from harness.config import load
from harness.daemon import needs
from harness.errors import ConfigError, UnavailableError
from harness.paths import Paths
from harness.status import Phase, Truth, encoded, wrong
from harness.system import early_signals, files, procfs, systemd, units

LONGEST_SECONDS = 15.0


def run(paths: Paths, environ: Mapping[str, str], error: ConfigError | None) -> int:
    """Until SIGHUP (a fresh process takes this one's place, and looks again) or SIGTERM.

    `error`: why it waits; None when nobody has configured anything. What this machine lacks is looked for again without a signal;
    the files of the configuration are read again only at SIGHUP, since somebody may still be writing them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, early_signals.ALL)
    _tell(paths, error)
    while (received := _received()) is None:
        systemd.notify(WATCHDOG=1)
        if isinstance(error, needs.MissingError):
            lacking = needs.lacking(error.config, environ)
            if lacking is None:
                break
            if lacking.message != error.message:
                _tell(paths, lacking)
            error = lacking
    with contextlib.suppress(OSError):
        paths.status.unlink(missing_ok=True)
    if received in (None, signal.SIGHUP):
        systemd.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 — this very program
    systemd.notify(STOPPING=1)
    return 0


def _received() -> int | None:
    """The next signal that says something to a daemon that waits, or None when none came in time."""
    received = signal.sigtimedwait(early_signals.ALL, systemd.beat(LONGEST_SECONDS))
    return received.si_signo if received and received.si_signo not in (signal.SIGUSR1, signal.SIGUSR2) else None


def _tell(paths: Paths, error: ConfigError | None) -> None:
    """In `meshexp status`, in systemd's status line, and once in the journal."""
    unit = units.unit_name("harness", paths.instance).removesuffix(".service")
    reload = f"then `systemctl reload {unit}`"
    next_step = f"{load.to_configure(paths)}, {reload}"
    line = f"waiting for configuration: {next_step}"
    conditions = []
    if error is not None:
        next_step = f"correct the faults of the configuration, {reload}"
        line = f"waiting: {next_step}: {error.message}"
        found = CONFIG_INVALID.found(error.tried or "reading the configuration", error.came)
        conditions.append(encoded(wrong("Configuration", Truth.FALSE, found), known=hints.general(paths)))
    own = procfs.own()
    said = {"phase": Phase.WAITING.text, "ready": False, "message": next_step, "conditions": conditions}
    said |= {"pid": own.pid, "pid_started": own.started}
    try:
        files.write_json(paths.status, said, mode=0o644)
    except UnavailableError as fault:  # a full disk does not end it
        print(fault.message, file=sys.stderr, flush=True)
    systemd.notify(READY=1, STATUS=line)
    print(line, file=sys.stderr, flush=True)
