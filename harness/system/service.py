"""The harness's own unit, as an administrator handles it: by systemctl, which speaks D-Bus. Blocking."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import HarnessError, UnavailableError
from harness.system import commands, units

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
    return units.booted() and _run(unit, "show", "--property=LoadState", "--value").strip() == "loaded"


def state(unit: str) -> State:
    """Raises UnavailableError when systemd does not say."""
    text = _run(unit, "show", "--property=ActiveState,UnitFileState")
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    active = found.get("ActiveState", "")
    return State(
        found.get("UnitFileState") in ("enabled", "enabled-runtime"),
        active in ("active", "activating", "reloading", "deactivating"),
        active == "failed",
    )


def control(verb: str, unit: str) -> None:
    """`enable`, `disable`, `start`, `stop`; returns when it is done. Raises UnavailableError with systemd's reason."""
    _run(unit, verb)


def _run(unit: str, *words: str) -> str:
    try:
        done = commands.run_blocking("systemctl", *words, foreign=(unit,), seconds=STOP_SECONDS)
    except HarnessError as error:
        raise UnavailableError(f"systemctl {words[0]}: {error.message}") from None
    if done.code:
        raise UnavailableError(f"systemctl {' '.join(words)} {unit}: {done.reason}", f"see `journalctl -u {unit}`")
    return done.text
