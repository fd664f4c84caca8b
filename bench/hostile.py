"""How many attacks a machine withstands of a hostile controller, and the controller of a hostile machine: two tables of tests."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from bench.record import Record, record
from tests import hostile_answers, hostile_machine
from tests.mesh import ENVIRONMENT, ROOT


def run() -> list[Record]:
    machine = _withstood("tests/netns/test_hostile_answers.py", "test_it_is_as_before")
    controller = _withstood("tests/children/test_controller_hostile.py", "test_refused")
    return [
        record("hostile.machine_attacks", machine, f"of {len(hostile_answers.ATTACKS)}"),
        record("hostile.controller_attacks", controller, f"of {len(hostile_machine.HOSTILE)}"),
    ]


def _withstood(file: str, test: str) -> int:
    """The rows that passed: one that waits for a repair, or that failed, is none."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.xml"
        argv = (sys.executable, "-m", "pytest", "-q", f"{file}::{test}", f"--junitxml={result}")
        subprocess.run(argv, env=ENVIRONMENT, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
        cases = ElementTree.parse(result).iter("testcase")  # noqa: S314
        return sum(len(list(case)) == 0 for case in cases)
