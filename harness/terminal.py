"""What the reader's terminal can show: escapes, characters, columns. All commands ask here."""

from __future__ import annotations

import codecs
import io
import json
import locale
import os
import re
import shutil
import sys
import textwrap
from typing import Any, TextIO

IN_ASCII = {
    "√": "v", "×": "x", "‼": "!", "…": "...", "→": "->", "←": "<-", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"',
    "≥": ">=", "≤": "<=", "µ": "u",
}  # fmt: skip
"""What is printed for a character that the terminal cannot show. A question mark is printed for all others."""
LEAST_COLUMNS = 40
"""Lines are wrapped at this width also on a narrower terminal: one word on each line helps nobody."""
_HANDLER = "meshexp-terminal"
_PAINTED = re.compile(r"\x1b\[[0-9;]*m([^\x1b]*)\x1b\[0m")
_COMMAND = re.compile(r"`[^`]+`")
_KEPT = "\x00"
"""Stands for a space in a command, which stays on one line: people copy it."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""All control characters but tab and the end of a line; those that turn the order of what follows; other ends of a line."""


def set_up() -> None:
    """At the start of a command. After it, printing a character never raises an error, whatever the locale is."""
    codecs.register_error(_HANDLER, _replaced)
    encoding = "ascii" if _is_ascii_locale() else None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors=_HANDLER)


def _is_ascii_locale() -> bool:
    """Under LC_ALL=C Python still writes UTF-8 (PEP 540), and the terminal would show several characters for one."""
    if not sys.flags.utf8_mode or os.environ.get("PYTHONUTF8") == "1" or "PYTHONIOENCODING" in os.environ:
        return False
    return not locale.nl_langinfo(locale.CODESET).upper().startswith("UTF")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(IN_ASCII.get(one, "?") for one in error.object[error.start : error.end]), error.end


def escapes(stream: TextIO | None = None) -> bool:
    """Whether colours and cursor moves are wanted (https://no-color.org) and understood (TERM is not terminfo's `dumb`)."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in (None, "", "dumb")


def columns(stream: TextIO | None = None) -> int | None:
    """None where the output is no terminal: there a line stays whole, for grep."""
    stream = stream or sys.stdout
    return max(LEAST_COLUMNS, shutil.get_terminal_size().columns) if stream.isatty() else None


def wrap(text: str, hang: int = 4, *, width: int | None) -> str:
    """Wraps each line at `width`. The further lines begin `hang` columns to the right of the first. Commands stay whole."""
    if width is None:
        return text
    return "\n".join(_wrapped(line, hang, width) for line in text.split("\n"))


def _wrapped(line: str, hang: int, width: int) -> str:
    if painted := _PAINTED.match(line):
        plain = _wrapped(f"{painted[1]}{line[painted.end() :]}", hang, width)
        return f"{painted[0]}{plain[len(painted[1]) :]}"
    indent = len(line) - len(line.lstrip(" "))
    if len(line) <= width:
        return line
    kept = _COMMAND.sub(lambda command: command[0].replace(" ", _KEPT), line.lstrip(" "))
    lines = textwrap.wrap(
        kept,
        width,
        initial_indent=" " * indent,
        # A comment stays one: `meshexp plan` is also input for another program.
        subsequent_indent=("#" if line.startswith("# ") else " " * indent).ljust(indent + hang),
        break_on_hyphens=False,
        break_long_words=False,
    )
    return "\n".join(lines).replace(_KEPT, " ")


def cut(text: str, width: int | None) -> str:
    """One line, which ends in dots where it would be too long."""
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


def say(text: str, hang: int = 4, *, stream: TextIO | None = None) -> None:
    """Prints lines for people."""
    stream = stream or sys.stdout
    print(wrap(text, hang, width=columns(stream)), file=stream, flush=True)


def harmless(text: str) -> str:
    """Some messages come from the controller or the application: what would control the terminal becomes a question mark."""
    return _CONTROLS.sub("?", text)


def say_error(program: str, message: str, hint: str = "") -> None:
    say(harmless(f"{program}: {message}"), stream=sys.stderr)
    if hint:
        say(harmless(f"  hint: {hint}"), stream=sys.stderr)


def say_json(data: object) -> None:
    """Prints one document. Where the output is not UTF-8, JSON's escapes stand for the characters, so that nothing is lost."""
    print(json_text(data, indent=2))


def json_text(data: object, **options: Any) -> str:
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    return json.dumps(data, ensure_ascii=plain, **options)


class Answer:
    """What a verb did: for people each sentence at once; as JSON one document at the end, with all sentences in `messages`."""

    def __init__(self, output: str = "text") -> None:
        self._json = output == "json"
        self._said: list[str] = []

    def say(self, text: str, mark: str = "") -> None:
        """`mark`: for people, before the text."""
        self._said.append(text)
        if not self._json:
            text = harmless(text)
            say(f"{mark} {text}" if mark else text)

    def raw(self, text: str) -> None:
        """For people only, and never wrapped: text that somebody may copy or give to another program."""
        if not self._json:
            print(text, end="", flush=True)

    def end(self, code: int, **facts: object) -> int:
        """Returns the exit code, after the document where JSON was asked for."""
        if self._json:
            say_json({**facts, "messages": self._said})
        return code
