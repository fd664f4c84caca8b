"""`meshexp logs`: the journal of the harness, of the proxy and of the split DNS, in one order."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.errors import UnavailableError


def run(follow: bool, lines: int) -> int:
    """Becomes journalctl. Raises UnavailableError where there is no journal."""
    program = shutil.which("journalctl")
    if program is None or not Path("/run/systemd/system").is_dir():
        raise UnavailableError(
            "there is no journal on this machine", "without systemd both log to the daemon's standard error: see what started it"
        )
    units = (f"--unit=meshexp-{name}.service" for name in ("harness", "proxy", "dns"))
    os.execv(program, [program, *units, f"--lines={lines}", *(("--follow",) if follow else ())])  # noqa: S606
