"""What failed in a test run: noted as it happens, so that tests/run tries it once more and names it at its very end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

FILE = "TEST_FAILURES_FILE"
"""The environment variable that names the file: a line for each failure, the test and the reason."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # With xdist every report comes by here twice: in its worker, and in the process that shares out the tests.
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        crash = getattr(report.longrepr, "reprcrash", None)
        lines = (crash.message if crash else report.longreprtext).splitlines()
        reason = lines[0][:200] if lines else ""
        with Path(os.environ[FILE]).open("a") as file:
            print(report.nodeid, reason, sep="\t", file=file)


def read(file: Path) -> dict[str, str]:
    """The reason by test: of what was said of a test, the first."""
    lines = file.read_text().splitlines() if file.exists() else []
    reasons: dict[str, str] = {}
    for line in lines:
        test, _, reason = line.partition("\t")
        reasons.setdefault(test, reason)
    return reasons


def table(first: dict[str, str], again: dict[str, str]) -> Iterable[str]:
    """A line for each test that failed at first, by what it did with nothing beside it."""
    for test, reason in first.items():
        yield f"failed twice         {test}: {again[test]}" if test in again else f"passed when alone    {test}: {reason}"


if __name__ == "__main__":
    if sys.argv[1] == "list":
        print("\n".join(read(Path(sys.argv[2]))))
    else:
        for line in table(read(Path(sys.argv[2])), read(Path(sys.argv[3]))):
            print(line)
