"""A folder that every user can enter, unlike pytest's own, and that only root can exchange, unlike one in /tmp."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """Needs root."""
    with tempfile.TemporaryDirectory(prefix="meshexp-test-", dir="/var/lib") as name:
        Path(name).chmod(0o755)
        yield Path(name)
