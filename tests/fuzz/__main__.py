"""`python3 -m tests.fuzz`: prints what it finds, and keeps it in tests/fuzz/found with --keep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.engine import Finding
from tests.fuzz.known import KNOWN
from tests.fuzz.run import run
from tests.fuzz.targets import TARGETS

FOUND = Path(__file__).resolve().parent / "found"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", help="all but those with a known fault, if none is named")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20_000, help="of inputs, all targets together (20000)")
    parser.add_argument("--processes", type=int, default=None, help="as many as there are cores")
    parser.add_argument("--keep", action="store_true", help="keep what is found, so that each run of the tests tries it")
    options = parser.parse_args()
    if unknown := [name for name in options.target if name not in TARGETS]:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    names = options.target or [name for name in TARGETS if name not in KNOWN]
    found = run(options.seed, options.count, names, options.processes)
    fresh = [one for name, each in found.items() for one in each if name not in KNOWN]
    for finding in fresh:
        print(f"{finding.target}: {finding.place}: {finding.what}\n    {finding.data[:300]!r}")
        if options.keep:
            keep(finding)
    print(f"{options.count} inputs, {len(fresh)} findings")
    return 1 if fresh else 0


def keep(finding: Finding) -> None:
    path = FOUND / finding.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(finding.data)


if __name__ == "__main__":
    sys.exit(main())
