"""`meshexp logs`: the journal of the harness, of the proxy and of the split DNS, in one order."""

from __future__ import annotations

import os
import shutil

from harness.errors import UnavailableError
from harness.system import units


def run(follow: bool, lines: int, instance: str) -> int:
    """Becomes journalctl. Raises UnavailableError where there is no journal."""
    program = shutil.which("journalctl")
    if program is None or not units.booted():
        raise UnavailableError(
            "there is no journal on this machine", "without systemd both log to the daemon's standard error: see what started it"
        )
    chosen = (f"--unit={units.unit_name(name, instance)}" for name in ("harness", "proxy", "dns"))
    # The units may have been given a LogNamespace=; without one the journal is the same.
    os.execv(program, [program, "--namespace=*", *chosen, f"--lines={lines}", *(("--follow",) if follow else ())])  # noqa: S606
