"""The proven trust anchors, kept for the daemon after this one. What was told and not proven is never written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from harness.anchors import Adopted
from harness.config import schema
from harness.errors import UnreadableError
from harness.paths import Paths
from harness.system import files, spire_certificate
from harness.values import canonical_pem


def of(config: schema.Config, paths: Paths) -> Adopted | None:
    """As `read`, for a daemon, which no state file keeps from starting: what cannot be read is logged, and the file counts."""
    try:
        return read(config, paths)
    except UnreadableError as error:
        structlog.get_logger().warning("the proven trust anchors cannot be read; the file's count", reason=error.message)
        return None


def read(config: schema.Config, paths: Paths) -> Adopted | None:
    """None where the file alone counts, and where nothing is kept that can be used. Raises UnreadableError."""
    if config.controller.anchors is schema.AnchorsMode.PINNED:
        return None
    left = _kept(paths.anchors)
    if left is None:
        # An older release's daemon took what it was told at once, so that this is in force on a member. Ours keeps a file from
        # its first cycle on, before it is told anything.
        left = {"pem": told(paths), "file": ""}
    pem, file = left.get("pem"), left.get("file")
    if not isinstance(pem, str) or not isinstance(file, str):
        return None
    try:
        spire_certificate.read_pem(pem.encode())
    except ValueError:
        return None
    return Adopted(canonical_pem(pem), file)


def _kept(path: Path) -> dict[str, Any] | None:
    """None where it is not there."""
    try:
        return files.kept_json(path)
    except UnreadableError as error:
        if error.absent:
            return None
        raise


def told(paths: Paths) -> str:
    """What the controller told last, proven or not; empty where that is nothing. Raises UnreadableError."""
    facts = (_kept(paths.known_registration) or {}).get("facts")
    pem = facts.get("trust_anchors_pem") if isinstance(facts, dict) else ""
    return pem if isinstance(pem, str) else ""


def keep(paths: Paths, adopted: Adopted | None) -> None:
    """Blocking: it is on the disk when this returns. Raises UnwritableError."""
    if adopted is None:
        files.remove(paths.anchors)
        return
    files.write_json(paths.anchors, {"pem": adopted.pem, "file": adopted.file}, mode=0o644, durable=True)
