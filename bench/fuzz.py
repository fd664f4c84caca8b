"""How many inputs that nobody would send the readers take without a fault. All from one seed."""

from __future__ import annotations

import sys

from bench.record import Record, record
from tests.fuzz.known import KNOWN
from tests.fuzz.run import run as fuzz
from tests.fuzz.targets import TARGETS

SEED, COUNT = 15, 1_000_000


def run() -> list[Record]:
    """Readers with a known fault are not fuzzed: each counts as a finding."""
    names = [name for name in TARGETS if name not in KNOWN]
    found = fuzz(SEED, COUNT, names)
    for finding in (one for each in found.values() for one in each):
        print(f"{finding.target}: {finding.place}: {finding.what}\n    {finding.data[:300]!r}", file=sys.stderr)
    for name, reason in KNOWN.items():
        print(f"known: {name}: {reason}", file=sys.stderr)
    findings = sum(map(len, found.values())) + len(KNOWN)
    inputs = -(-COUNT // len(names)) * len(names)
    return [record("fuzz.inputs", inputs, f"of {len(names)} readers"), record("fuzz.findings", findings, "")]
