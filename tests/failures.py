"""How each test of a run ended. tests/run tries the few that failed once more, and names them at its end."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

FILE = "TEST_FAILURES_FILE"
"""The environment variable that names the file: a line for each outcome, `passed` or `failed`, the test and the reason."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # the process that shares out the tests gets the same report
    if report.failed:
        _note("failed", report.nodeid, _reason(report))
    elif report.passed and report.when == "call":
        _note("passed", report.nodeid, "")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that cannot be imported has failed too: its tests are in no other report."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        _note("failed", report.nodeid, _reason(report))


def _note(outcome: str, test: str, reason: str) -> None:
    with Path(os.environ[FILE]).open("a") as file:
        print(outcome, test, reason, sep="\t", file=file)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else report.longreprtext).splitlines()
    return lines[0][:200] if lines else ""


@dataclass(slots=True)
class Outcomes:
    """`failed`: the first reason by test. A test may have passed and failed: its end failed then."""

    failed: dict[str, str] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)


def read(file: Path) -> Outcomes:
    """Nothing where there is no such file: that run did not take place."""
    found = Outcomes()
    for line in file.read_text().splitlines() if file.exists() else ():
        outcome, test, reason = line.split("\t", 2)
        if outcome == "failed":
            found.failed.setdefault(test, reason)
        else:
            found.passed.add(test)
    return found


def verdict(test: str, alone: Outcomes) -> str:
    """Of a test that failed in the first run. If the second run left it out or skipped it, it has failed."""
    if test in alone.failed:
        return "failed twice"
    return "passed when alone" if test in alone.passed else "failed"


def report(first: Outcomes, alone: Outcomes) -> bool:
    """Prints a line for each test that failed in the first run. Whether each of them passed in the second."""
    verdicts = {test: verdict(test, alone) for test in first.failed}
    for test, found in verdicts.items():
        print(f"{found:<20} {test}: {alone.failed.get(test, first.failed[test])}")
    return set(verdicts.values()) <= {"passed when alone"}


if __name__ == "__main__":
    files = [read(Path(name)) for name in sys.argv[2:]]
    if sys.argv[1] == "list":
        print("\n".join(files[0].failed))
    elif not report(*files):
        sys.exit(1)
