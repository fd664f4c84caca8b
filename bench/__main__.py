"""`make bench`: every module of this folder, as a table and as build/bench.json."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path

import bench
from bench.record import Record
from demo.report import table


def main(only: list[str]) -> int:
    records: list[Record] = []
    for module in sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if m.name not in ("__main__", "record")):
        if only and module not in only:
            continue
        print(f"measuring {module} …", file=sys.stderr, flush=True)
        records += importlib.import_module(f"bench.{module}").run()
    rows = [
        (r["name"], f"{r['value']:g}", r["unit"], r["against"] or "", f"{r['ratio']:.2f}" if r["ratio"] is not None else "")
        for r in records
    ]
    print(table(("figure", "value", "unit", "against", "ratio"), rows))
    build = Path(__file__).resolve().parent.parent / "build"
    build.mkdir(exist_ok=True)
    (build / "bench.json").write_text(json.dumps(records, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
