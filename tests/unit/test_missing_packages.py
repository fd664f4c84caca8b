"""A Python without the packages that we need: no command answers with a traceback."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import Any

import pytest

from tests.mesh import ROOT

SCRIPTS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
# Each with words that need a package of others.
WORDS = {
    "meshexp": ("plan",),
    "meshexp-controller": ("--help",),
    "kubectl-meshexp": ("get",),
    "linkerd-meshexp": ("check",),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_missing_package_is_named(name: str) -> None:
    module, _, function = SCRIPTS[name].partition(":")
    program = f"from {module} import {function}; {function}()"
    # -S: without the folders of installed packages.
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, *WORDS[name]], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 69 and done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("the Python package ") and first.endswith(f" is not installed for {sys.executable}")
    package = first.split()[3]
    assert package in ("yaml", "structlog", "aiohttp", "h2", "httpx") and f"`apt install python3-{package}`" in second
