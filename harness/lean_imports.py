"""Makes a program's imports light: it is started often enough by people who wait for it, and a daemon stays in memory.

httpx and structlog take rich, click and pygments when these are installed, for command lines and coloured tracebacks of their
own: 6 MiB and 100 ms that we have no use for. None in sys.modules is Python's own way to say that a module is not there;
both libraries do without. pyroute2's package imports everything that it has, a database too (8 MiB, 100 ms); its modules, by
their own names, need none of it.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
from types import ModuleType
from typing import cast

UNWANTED = ("rich", "click", "pygments")
UNOPENED = "pyroute2"
SELDOM = 100_000  # objects, between two searches for garbage; Python's own number is 700
_USUAL = gc.get_threshold()


def apply() -> None:
    """Before the first import of one of them. Little is garbage while modules are made: it is seldom looked for."""
    gc.set_threshold(SELDOM)
    for name in UNWANTED:
        sys.modules.setdefault(name, cast(ModuleType, None))
    if (spec := importlib.util.find_spec(UNOPENED)) is not None:
        sys.modules.setdefault(UNOPENED, importlib.util.module_from_spec(spec))


def done() -> None:
    """All is imported, and stays."""
    gc.freeze()
    gc.set_threshold(*_USUAL)
