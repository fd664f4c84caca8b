"""The file by which an operator keeps traffic away: the commands write it, the daemon reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.system import files
from harness.terminal import harmless

LATEST = 1e11
"""Epoch seconds in the year 5138; the C library has no date for much later ones."""


@dataclass(frozen=True, slots=True)
class Cordon:
    """`reason`: empty when it cannot be read. `since`: epoch seconds, 0 when that is not known."""

    reason: str
    since: float


def read(path: Path) -> Cordon | None:
    """None when there is no cordon. A file that cannot be read is one all the same."""
    if not path.exists():
        return None
    data = files.read_json(path)
    return Cordon(one_line(str(data.get("reason") or "")), _since(data.get("since")))


def one_line(reason: str) -> str:
    """As a terminal, a log and the cluster may have it: without line ends, control characters and halves of characters."""
    return " ".join(harmless(reason).encode(errors="replace").decode().split())


def _since(given: object) -> float:
    return float(given) if isinstance(given, float | int) and 0 < given < LATEST else 0.0


def write(path: Path, made: Cordon) -> None:
    """Raises UnwritableError."""
    files.write_json(path, {"reason": made.reason, "since": made.since}, mode=0o644, durable=True)
