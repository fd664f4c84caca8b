"""A machine that nobody has configured yet: the unit is active and says what to do, instead of failing."""

from __future__ import annotations

import os
import signal
import sys
import time

from harness.paths import Paths
from harness.system import files, systemd

LONGEST_SECONDS = 15.0


def run(paths: Paths) -> int:
    """Until SIGHUP (a fresh process takes this one's place, and looks again) or SIGTERM."""
    text = f"waiting for configuration: set workload.group and workload.namespace in {paths.harness_yaml}, then reload"
    numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    files.write_json(paths.status, {"phase": "Waiting", "ready": False, "message": text, "pid": os.getpid()}, mode=0o644)
    systemd.notify(READY=1, STATUS=text)
    print(text, file=sys.stderr, flush=True)
    while (received := signal.sigtimedwait(numbers, systemd.beat(LONGEST_SECONDS))) is None:
        systemd.notify(WATCHDOG=1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    paths.status.unlink(missing_ok=True)
    if received.si_signo == signal.SIGHUP:
        systemd.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 — this very program
    systemd.notify(STOPPING=1)
    return 0
