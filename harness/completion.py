"""What a shell can complete: made from the parser of the command line, so that the two cannot differ. Pure.

Instances and versions of the proxy are names of folders. The shell itself looks for them, and starts no program. A folder that is
not there, or that this user may not read, gives no names and no error.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from harness import arguments
from harness.check_problems import REGISTRY

FILES, FOLDERS, INSTANCES, VERSIONS, NOTHING = "@files", "@folders", "@instances", "@versions", "@nothing"
BY_METAVAR = {
    "FILE": FILES,
    "FILE|REFERENCE": FILES,
    "FILE|-|URL": FILES,
    "FOLDER": FOLDERS,
    "COMMAND": FILES,
    "CODE": " ".join(sorted(REGISTRY)),
    "NAME": NOTHING,
    "SECONDS": NOTHING,
    "N": NOTHING,
    "TEXT": NOTHING,
    "FINGERPRINT": NOTHING,
    "ID": NOTHING,
    "sha256:…": NOTHING,
}
"""What an argument can be, by the word that stands for it in the help: one of the above, or words."""
MOST_CHARACTERS = 60
"""Of a description: a shell shows several in one screen."""


@dataclass(frozen=True, slots=True)
class Option:
    """`takes`: what its value can be; None for one without a value."""

    names: tuple[str, ...]
    takes: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Node:
    """What can follow the verbs in `path`. `verbs`: each with its text. `takes`: what its arguments can be."""

    path: str
    verbs: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    takes: str


def nodes(parser: argparse.ArgumentParser) -> tuple[Node, ...]:
    """Of the command, of all its verbs, and of theirs."""
    return tuple(_nodes(parser, "", " ".join(arguments.verbs(parser))))


def _nodes(parser: argparse.ArgumentParser, path: str, all_verbs: str) -> Iterator[Node]:
    options: list[Option] = []
    verbs: list[tuple[str, str]] = []
    takes = NOTHING
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            verbs = [(one.dest, _short(one.help)) for one in action._choices_actions]
        elif action.option_strings:
            value = _kind(action, all_verbs) if action.nargs != 0 else None
            text = action.help if action.help != argparse.SUPPRESS else "another workload of this machine"
            options.append(Option(tuple(action.option_strings), value, _short(text)))
        else:
            takes = _kind(action, all_verbs)
    yield Node(path, tuple(verbs), tuple(options), takes)
    for name, below in arguments.verbs(parser).items():
        yield from _nodes(below, f"{path} {name}".lstrip(), all_verbs)


def _kind(action: argparse.Action, all_verbs: str) -> str:
    """Raises KeyError for a metavar that is not in BY_METAVAR."""
    if action.choices is not None:
        return " ".join(map(str, action.choices))
    if action.dest == "instance":
        return INSTANCES
    word = str(action.metavar)
    if word == "VERSION":
        return NOTHING if action.option_strings else VERSIONS
    return all_verbs if word == "VERB" else BY_METAVAR[word]


def _short(text: str | None) -> str:
    """The text up to its first semicolon or colon, and cut where that is still long."""
    first = (text or "").partition(";")[0].partition(": ")[0]
    return first if len(first) <= MOST_CHARACTERS else f"{first[: MOST_CHARACTERS - 4].rpartition(' ')[0]} ..."
