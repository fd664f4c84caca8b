"""Words that several messages have.

Those of what came back choose the hint of a problem (Problem.cases). The others are numbers with a noun, and guesses.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

REFUSED = "connection refused"
NO_CONNECTION = "no connection"
NO_ANSWER = "no answer"
UNRESOLVED = "does not resolve"
NOT_HTTP = "is no HTTP"
NO_TLS = "speaks no TLS"
NO_PROXY_TLS = "no TLS handshake with the proxy"
ANSWERS_AS = "what answers"
RESET = "connection reset"
DISCONNECTED = "closed the connection"
NOT_INSTALLED = "is not installed"
NOT_PERMITTED = "Operation not permitted"
DANGLING = "leads to nothing"
NOT_THERE = "No such file or directory"
PORT_TAKEN = "listens there already"
NO_USER = "no such user"
NOT_UNDERSTOOD = "answer is not understood"
NOT_SENT = "it cannot be asked that"
NO_COMMAND = "allows no command"
NO_PROGRAM = "no such program"
NOT_STARTED = "cannot be started"
ENDED = "ended with"
IS_ROOT = "is a root itself"
UNKNOWN_CA = "unknown ca"
EARLY = "is not valid yet"
EXPIRED = "has expired"
NO_ROOM = ("is read-only", "is full", "has no inode left")
"""Why a file cannot be written, of a file system."""
NO_ADDRESS = "have no address for it either"
LEFT = "left as the daemon before this one had it, until the controller answers"
NO_GROUP = "group-not-found"


def counted(number: int, one: str, more: str = "") -> str:
    """`1 route`, `2 routes`. `more`: the plural, where it is not `one` with an s."""
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def near(word: str, known: Iterable[str]) -> str:
    """`did you mean status?`, for a word that is not among the known ones; empty when no known word is similar."""
    written = {one.lower(): one for one in known}
    found = difflib.get_close_matches(word.lower(), written, n=1, cutoff=0.6)
    return f"did you mean {written[found[0]]}?" if found else ""
