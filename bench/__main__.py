"""`make bench`: every module of this folder, as a table and in build/bench.json."""

from __future__ import annotations

import argparse
import datetime
import difflib
import importlib
import json
import os
import pkgutil
import signal
import sys
from pathlib import Path
from typing import Any

import bench
from bench.record import Record
from demo.report import table

RESULT = Path(__file__).resolve().parent.parent / "build" / "bench.json"
USAGE = 64


def main(words: list[str], result: Path = RESULT) -> int:
    known = sorted(m.name for m in pkgutil.iter_modules(bench.__path__) if m.name not in ("__main__", "record"))
    parser = argparse.ArgumentParser(
        prog="python3 -m bench",
        description="Measures, prints a table, and writes build/bench.json. With names, the file's other figures stay in it.",
        epilog=f"Names: {', '.join(known)}.",
    )
    parser.add_argument("name", nargs="*", help="what to measure; everything unless named")
    try:
        names = parser.parse_args(words).name
    except SystemExit as stop:
        return USAGE if stop.code else 0
    if unknown := [name for name in names if name not in known]:
        for name in unknown:
            print(f"bench: {_unknown(name, known)}", file=sys.stderr)
        return USAGE
    if os.geteuid() != 0:
        print("bench: network namespaces need root; use `make bench`, which calls sudo", file=sys.stderr)
        return 77
    records = measure([name for name in known if name in names or not names])
    print(table(("figure", "value", "unit", "against", "ratio"), [_row(record) for record in records]))
    write(records, result, keep=bool(names))
    return 0


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    guess = f" Did you mean {close[0]}?" if close else ""
    return f'there is no benchmark "{name}".{guess} There are {", ".join(known)}.'


def measure(names: list[str]) -> list[Record]:
    records: list[Record] = []
    for name in names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        records += importlib.import_module(f"bench.{name}").run()
    return records


def _row(record: Record) -> tuple[str, ...]:
    ratio = "" if record["ratio"] is None else f"{record['ratio']:.2f}"
    return record["name"], f"{record['value']:g}", record["unit"], record["against"] or "", ratio


def write(records: list[Record], result: Path, keep: bool) -> None:
    """With `keep`, next to the figures that are there under other names. `run` says which were measured together."""
    if not records:
        return
    run = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    merged: dict[str, Any] = {record["name"]: record for record in (_earlier(result) if keep else [])}
    merged |= {record["name"]: {**record, "run": run} for record in records}
    result.parent.mkdir(exist_ok=True)
    partial = result.with_name(f"{result.name}.partial")
    partial.write_text(json.dumps(list(merged.values()), indent=2) + "\n")
    partial.replace(result)


def _earlier(result: Path) -> list[dict[str, Any]]:
    try:
        return [record for record in json.loads(result.read_text()) if record["name"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []  # the first run, or one of another version


def _end(number: int, _: object) -> None:
    """As an exception, so that what was started for a figure ends too."""
    sys.exit(128 + number)


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _end)
    sys.exit(main(sys.argv[1:]))
