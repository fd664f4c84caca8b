"""What `make` says, and that it begins nothing by itself."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.mesh import ROOT


def make(*words: str) -> str:
    done = subprocess.run(["make", *words], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert done.stderr == ""
    return done.stdout


def test_alone_it_prints_help_and_begins_nothing() -> None:
    assert "setup" not in make("--dry-run")
    assert make() == make("help")


def test_every_target_is_in_its_help() -> None:
    names = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert names
    told = re.findall(r"^make (\w+)  +\S", make("help"), re.MULTILINE)
    assert sorted(told) == sorted(names[1].split())


def test_every_option_of_the_demo_is_in_its_help() -> None:
    asked = subprocess.run([sys.executable, "-m", "demo", "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    options = set(re.findall(r"--\w+", asked.stdout)) - {"--help"}
    assert len(options) > 2
    assert all(option in make("help") for option in options)
