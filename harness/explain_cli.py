"""`meshexp explain`: what a problem's code means, out of the same table as docs/troubleshooting.md. It reads nothing else."""

from __future__ import annotations

import argparse
from typing import Any

from harness import explained, terminal
from harness.arguments import output
from harness.check_problems import Problem

MOST_COLUMNS = 100
_COLUMN = 30
"""Where the titles begin."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "explain",
        help="what a problem's code means, and what to do; without a code the list of all",
        description="Says what the problems mean that status, check and the log name, and what to do. Needs no root, no"
        " configuration and no network. PORT, FILE and so on stand for what only the machine knows that has met the problem:"
        " `meshexp status` there has the values.",
    )
    verb.add_argument("codes", nargs="*", metavar="CODE", help="such as probe-failed")
    output(verb)
    return verb


def run(options: argparse.Namespace) -> int:
    chosen = [explained.find(code) for code in options.codes] or explained.ordered()
    if options.output == "json":
        terminal.say_json([explained.record(problem) for problem in chosen])
    elif options.codes:
        print("\n\n".join(text(problem) for problem in chosen))
    else:
        for problem in chosen:
            terminal.say(_listed(problem), _COLUMN)
    return 0


def text(problem: Problem) -> str:
    width = terminal.columns()
    told = (*explained.paragraphs(problem), f"On the web: {explained.url(problem)}")
    readable = None if width is None else min(width, MOST_COLUMNS)
    return "\n".join([problem.code, *(terminal.wrap(f"  {paragraph}", 2, width=readable) for paragraph in told)])


def _listed(problem: Problem) -> str:
    return f"{problem.code:<{_COLUMN}}{problem.title}"
