"""Whether this process may look at a file or folder. That it may not says nothing about what is there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def is_denied(path: Path | str) -> bool:
    """True when the kernel refuses to open it for reading, or to say whether it is there, for lack of rights."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def to_this_user(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Those of them that a user other than root may not read; nothing for root, to whom it happens for other reasons."""
    return tuple(path for path in paths if is_denied(path)) if os.geteuid() != 0 else ()
