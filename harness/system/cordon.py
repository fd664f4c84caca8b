"""The file by which an operator keeps traffic away: the commands write it, the daemon reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.system import files


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
    since = data.get("since")
    return Cordon(str(data.get("reason") or ""), since if isinstance(since, float | int) else 0.0)


def write(path: Path, made: Cordon) -> None:
    """Raises UnwritableError."""
    files.write_json(path, {"reason": made.reason, "since": made.since}, mode=0o644)
