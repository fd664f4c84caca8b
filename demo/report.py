"""What a person at the terminal sees: each step as it happens, with its time, and the table at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

_COLOR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


class Report:
    def __init__(self) -> None:
        self._began = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def step(self, who: str, text: str) -> None:
        print(f"{_dim(f'{self.seconds():7.2f} s')}  {who:<10} {text}", flush=True)

    def check(self, passed: bool, text: str) -> None:
        sign = _paint("√", 32) if passed else _paint("×", 31)
        print(f"{_dim(f'{self.seconds():7.2f} s')}  {sign} {text}", flush=True)

    def heading(self, text: str) -> None:
        print(f"\n{_paint(text, 1)}", flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)
    ]
    return "\n".join([_paint(lines[0], 1), *lines[1:]])


def _paint(text: str, code: int) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if _COLOR else text


def _dim(text: str) -> str:
    return _paint(text, 2)
