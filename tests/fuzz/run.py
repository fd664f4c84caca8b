"""All targets, over several processes: each target has one of its own, with the same inputs whatever else runs."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import structlog

from tests.fuzz.engine import ROOT, Finding, fuzz
from tests.fuzz.targets import TARGETS


def run(seed: int, count: int, names: Iterable[str] = (), processes: int | None = None) -> dict[str, list[Finding]]:
    """Findings by target. `count`: of inputs, all targets together."""
    wanted = tuple(names) or tuple(TARGETS)
    share = -(-count // len(wanted))
    with ThreadPoolExecutor(processes or os.cpu_count() or 1) as pool:
        return dict(zip(wanted, pool.map(lambda name: _apart(name, seed, share), wanted), strict=True))


def _apart(name: str, seed: int, count: int) -> list[Finding]:
    """In a process of its own, whose end by anything but its last line is a finding too."""
    argv = (sys.executable, "-m", "tests.fuzz.run", name, str(seed), str(count))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        return [Finding(name, "the end of the process", f"status {done.returncode}: {done.stderr[-300:]}", b"")]
    return [Finding(name, place, what, bytes.fromhex(data)) for place, what, data in json.loads(done.stdout.splitlines()[-1])]


def _main(name: str, seed: str, count: str) -> None:
    # What readers log of an input is no finding.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    found = fuzz(TARGETS[name], int(seed), int(count))
    print(json.dumps([(one.place, one.what, one.data.hex()) for one in found.values()]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
