"""Keeps libraries out of the daemon that other libraries import only for command lines and coloured tracebacks of their own.

httpx and structlog take rich, click and pygments when these are installed: 6 MiB and 100 ms that a daemon has no use for.
None in sys.modules is Python's own way to say that a module is not to be had; both libraries do without.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast

UNWANTED = ("rich", "click", "pygments")


def apply() -> None:
    """Before the first import of httpx or structlog."""
    for name in UNWANTED:
        sys.modules.setdefault(name, cast(ModuleType, None))
