"""The harness's own unit, as an administrator handles it: by systemctl, which speaks D-Bus. Blocking."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from harness.errors import UnavailableError
from harness.system import units

STOP_SECONDS = 150.0  # longer than the unit's own TimeoutStopSec


@dataclass(frozen=True, slots=True)
class State:
    """`active`: it runs or is on its way; `failed`: it ended with an error and does not come back."""

    enabled: bool
    active: bool
    failed: bool


def unit_of(instance: str) -> str:
    """The unit of one of this machine's workloads; `instance` is empty for the first."""
    return units.unit_name("harness", instance)


def managed(unit: str) -> bool:
    """Whether systemd runs this machine and has the unit. Raises UnavailableError when systemd does not say."""
    return units.booted() and _run("show", "--property=LoadState", "--value", unit).strip() == "loaded"


def state(unit: str) -> State:
    """Raises UnavailableError when systemd does not say."""
    text = _run("show", "--property=ActiveState,UnitFileState", unit)
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    active = found.get("ActiveState", "")
    return State(
        found.get("UnitFileState") in ("enabled", "enabled-runtime"),
        active in ("active", "activating", "reloading", "deactivating"),
        active == "failed",
    )


def control(verb: str, unit: str) -> None:
    """`enable`, `disable`, `start`, `stop`; returns when it is done. Raises UnavailableError with systemd's reason."""
    _run(verb, unit)


def _run(*words: str) -> str:
    try:
        done = subprocess.run(
            ("systemctl", *words), capture_output=True, text=True, check=False, timeout=STOP_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"systemctl {words[0]}: {error}") from None
    if done.returncode:
        raise UnavailableError(f"systemctl {' '.join(words)}: {done.stderr.strip()}", f"see `journalctl -u {words[-1]}`")
    return done.stdout
