"""What a person at the terminal sees: each step as it happens, with its time, and the table at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from harness import terminal

_TEXT = 11
"""Where the text begins, after the time."""
_WHO = 10


class Report:
    """`began`: the time.monotonic() at which the seconds of all steps start; it is the same clock in all processes."""

    def __init__(self, began: float | None = None) -> None:
        self.began = time.monotonic() if began is None else began

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def step(self, who: str, text: str) -> None:
        self._timed(f"{who:<{_WHO}} {text}", _WHO + 1)

    def check(self, passed: bool, text: str) -> None:
        sign = _paint("√", 32) if passed else _paint("×", 31)
        self._timed(f"{sign} {text}", 2)

    def _timed(self, text: str, hang: int) -> None:
        """With the time. What goes on in a further line of the terminal begins `hang` columns to the right of the text."""
        width = terminal.columns()
        wrapped = terminal.wrap(text, hang, width=width - _TEXT if width is not None else None)
        self.line(f"{_dim(f'{self.seconds():7.2f} s')}  {wrapped}".replace("\n", f"\n{'':{_TEXT}}"))

    def heading(self, text: str) -> None:
        self.line(f"\n{_paint(terminal.wrap(text, 3, width=terminal.columns()), 1)}")

    def up(self, summary: str, shells: Sequence[tuple[str, str]], page: tuple[str, int]) -> None:
        """The end of the start. The page's address is its last line."""
        self.heading("The playground is up")
        self.line(f"{summary}\n\n{table(('machine', 'a shell in it, to paste into another terminal'), shells)}")
        self.line("Try there: meshexp status, meshexp check, meshexp plan, meshexp diff, meshexp logs,")
        self.line("           meshexp cordon, meshexp uncordon")
        self.line("\nBlue comes from color's pod, green from color-1.")
        self.line("One smiley in five is from smiley2-1, with heart eyes.")
        self.line(f"Ctrl-C takes everything down.\n\nThe page: http://{page[0]}:{page[1]}/")

    def line(self, text: str) -> None:
        try:
            print(text, flush=True)
        except OSError:  # the terminal is gone, but what runs must still be taken down
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)
    ]
    return "\n".join([_paint(lines[0], 1), *lines[1:]])


def _paint(text: str, code: int) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if terminal.escapes() else text


def _dim(text: str) -> str:
    return _paint(text, 2)
