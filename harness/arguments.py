"""What all our commands do alike with their arguments: exit code 64 and a guess for a wrong one, help for none, `-o json`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from harness import phrases
from harness.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Of a command, and of each of its verbs. A shortened option is a mistyped one: `--wat` may mean --wait or --watch."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        if self._subparsers is not None and "are required" in message:  # a verb is missing: the help lists all
            self.print_help(sys.stderr)
        else:
            self.print_usage(sys.stderr)
        self.exit(UsageError.exit_code, f"{self.prog}: {message}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does, but with a guess instead of the whole list, where a known word is similar."""
        known = [str(choice) for choice in action.choices or ()]
        if action.choices is None or str(value) in known:
            return
        kind = "/".join(action.option_strings) or action.metavar
        if isinstance(action, argparse._SubParsersAction):
            kind = "verb"
        which = phrases.near(str(value), known) or f"there are {', '.join(known)}"
        raise argparse.ArgumentError(None, f"there is no {kind} {str(value)!r:.60}; {which}")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = sys.argv[1:] if args is None else list(args)
        found, unknown = self.parse_known_args(words, namespace)
        if unknown:
            meant = self._meant(words)
            options = [name for action in meant._actions for name in action.option_strings]
            guess = phrases.near(unknown[0].partition("=")[0], options)
            meant.error(f"not known here: {' '.join(unknown)}" + (f"; {guess}" if guess else ""))
        self.help_without_verb(found)
        return found

    def help_without_verb(self, found: argparse.Namespace) -> None:
        """Prints the help and ends the command, with success, where no verb was given."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and getattr(found, action.dest) is None:
                self.print_help()
                self.exit()

    def _meant(self, words: Iterable[str]) -> Parser:
        """The parser of the verb in `words`."""
        meant = self
        for word in words:
            meant = verbs(meant).get(word, meant)
        return meant


def verbs(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    """The verbs of a command, or below a verb, each with its parser."""
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def output(parser: argparse.ArgumentParser, *kinds: str, text: str = "") -> None:
    """`-o`; the first of the kinds is the default, `text` and `json` if none is given."""
    chosen = kinds or ("text", "json")
    parser.add_argument("-o", "--output", choices=chosen, default=chosen[0], help=text or "how to print the result")


def seconds(text: str) -> float:
    """float() also takes nan, which no time ever reaches."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not found >= 0:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number of seconds")
    return found
