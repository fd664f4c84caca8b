"""How a join shows its steps: a live line on a terminal, plain lines elsewhere, one object for programs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from harness.errors import TemporaryError
from harness.steps import Step, Steps
steps = Steps(sys.argv[1])
try:
    with steps.step("first") as step:
        step.message = "well"
    steps.live("waiting")
    steps.add(Step("second", "warning", 1.5, "so so"))
    with steps.step("third"):
        raise TemporaryError("no luck", "try again")
except TemporaryError as error:
    steps.finish(error, joined=False)
"""
ARGV = [sys.executable, "-c", SCRIPT]


def test_plain_lines() -> None:
    done = subprocess.run([*ARGV, "text"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["√ first (0.00 s): well", "‼ second (1.50 s): so so", "× third (0.00 s): no luck"]


def test_one_object() -> None:
    found = json.loads(subprocess.run([*ARGV, "json"], capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    assert [(step["name"], step["result"]) for step in found["steps"]] == [
        ("first", "done"), ("second", "warning"), ("third", "failed"),
    ]  # fmt: skip
    assert found["joined"] is False and found["error"] == {"message": "no luck", "hint": "try again", "exit_code": 75}


def test_a_terminal_sees_what_is_going_on() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([*ARGV, "text"], stdout=theirs, check=True, cwd=ROOT)
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert "… first\r\x1b[K\x1b[32;1m√\x1b[0m first" in text and "… waiting\r\x1b[K" in text
