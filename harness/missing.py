"""Every command says in a sentence which Python package is not installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

_OWN = ("", "harness", "controller", "demo")


@contextlib.contextmanager
def told(extra: str = "") -> Iterator[None]:
    """Ends the program where an import of others' packages fails. `extra`: the part of pyproject.toml that names them."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OWN:
            raise  # a bug
        from harness.errors import UnavailableError

        place = f"'.[{extra}]'" if extra else "."
        print(f"the Python package {package} is not installed for {sys.executable}", file=sys.stderr)
        print(f"  hint: `apt install python3-{package}`, or `pip install {place}` in the project's folder", file=sys.stderr)
        sys.exit(UnavailableError.exit_code)
