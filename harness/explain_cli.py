"""`meshexp explain`: what a problem's code means, out of the same table as docs/troubleshooting.md. It reads nothing else."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import textwrap
from typing import Any

from harness import explained
from harness.check_problems import Problem
from harness.status_cli import printable

MOST_COLUMNS = 100
_COMMAND = re.compile(r"`[^`]+`")
_KEPT = "\x00"
"""For a space in a command, which stays on one line: people copy it."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "explain",
        help="what a problem's code means, and what to do; without a code the list of all",
        description="Says what the problems mean that status, check and the log name, and what to do. Needs no root, no"
        " configuration and no network. PORT, FILE and so on stand for what only the machine knows that has met the problem:"
        " `meshexp status` there has the values.",
    )
    verb.add_argument("codes", nargs="*", metavar="CODE", help="such as probe-failed")
    verb.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return verb


def run(options: argparse.Namespace) -> int:
    chosen = [explained.find(code) for code in options.codes] or explained.ordered()
    if options.output == "json":
        print(json.dumps([explained.record(problem) for problem in chosen], indent=2))
    elif options.codes:
        print(printable("\n\n".join(text(problem) for problem in chosen)))
    else:
        print(printable("\n".join(_listed(problem) for problem in chosen)))
    return 0


def text(problem: Problem) -> str:
    columns = min(shutil.get_terminal_size().columns, MOST_COLUMNS)
    wrapped = textwrap.TextWrapper(
        columns, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
    )
    lines = [problem.code]
    for paragraph in (*explained.paragraphs(problem), f"On the web: {explained.url(problem)}"):
        lines += wrapped.wrap(_COMMAND.sub(lambda command: command[0].replace(" ", _KEPT), paragraph))
    return "\n".join(lines).replace(_KEPT, " ")


def _listed(problem: Problem) -> str:
    return f"{problem.code:<29} {problem.title}"
