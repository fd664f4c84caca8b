"""Conditions, the phase that follows from them, and the snapshot that `meshexp status` prints. No I/O."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness import hints, times
from harness.problems import REGISTRY, Found, Problem, Severity


class Truth(enum.Enum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """One sentence about one part. `problem` is set exactly when something is known to be wrong (also while `truth` is True);
    code that meets one makes the condition by `wrong`.

    `message` says what was tried and what came back, and stays the same while that does. `counts` changes from look to look.
    """

    name: str
    truth: Truth
    message: str
    problem: Problem | None = None
    applies: bool = True
    """False where there is nothing to bring about, so that nothing was tried: nobody has configured it, or told of it."""
    found: Found | None = None
    counts: str = ""

    def hint(self, known: Mapping[str, str] = hints.GENERAL) -> str:
        """`known`: the general values of this machine. Empty without a problem."""
        if self.found is not None:
            return self.found.hint(known)
        return self.problem.narrowed(known=known).hint if self.problem else ""

    def met(self, known: Mapping[str, str] = hints.GENERAL) -> Problem | None:
        """The problem, with the hint for this machine."""
        return self.problem.advised(self.hint(known)) if self.problem else None


def wrong(name: str, truth: Truth, found: Found, *, stands: str = "", counts: str = "") -> Condition:
    """A part that has met a problem. `stands`: how it stands all the same."""
    message = f"{stands}; {found}" if stands else str(found)
    return Condition(name, truth, message, found.problem, found=found, counts=counts)


def made_worse(condition: Condition, found: Found) -> Condition:
    """The part stands as before, and has met another problem."""
    return replace(condition, message=f"{condition.message}; {found}", problem=found.problem, found=found)


def retold(name: str, said: Mapping[str, Any], whose: str) -> Condition:
    """What another daemon has written of its own. One of another release may have words that this one does not know."""
    known = {truth.value: truth for truth in Truth}
    truth = known.get(said["status"], Truth.UNKNOWN)
    return Condition(name, truth, f"{whose}: {said['message']}", problem_of(said), bool(said.get("applies", True)))


def problem_of(said: Mapping[str, Any]) -> Problem | None:
    """Of an encoded condition, with the hint of the daemon that wrote it: it knew the values."""
    problem = REGISTRY.get(said["problem"]) if said["problem"] else None
    if problem is None or not said["hint"]:
        return problem
    return problem.advised(said["hint"])


def encoded(
    condition: Condition,
    *,
    identity_made_here: bool = False,
    known: Mapping[str, str] = hints.GENERAL,
    since: str | None = None,
) -> dict[str, str | bool | None]:
    """As `meshexp status -o json` has it. `since`: when it began to stand like this."""
    problem = condition.problem
    return {
        "name": condition.name,
        "status": condition.truth.value,
        "applies": condition.applies,
        "message": condition.message,
        "counts": condition.counts,
        "since": since,
        "problem": problem.code if problem else None,
        "severity": problem.severity.value if problem else None,
        "where": problem.where.of(identity_made_here=identity_made_here).value if problem else None,
        "hint": condition.hint(known) or None,
    }


def told(said: Mapping[str, Any], wall: float) -> str:
    """The message of an encoded condition, and where not all is well how often, and for how long it has been so by now."""
    message = str(said["message"])
    if said["problem"] is None and said["status"] == Truth.TRUE.value:
        return message
    more = [str(said.get("counts") or "")]
    if since := said.get("since"):
        more.append(f"for {times.span(max(0.0, wall - times.seconds_of(since)))}")
    text = ", ".join(filter(None, more))
    first, newline, rest = message.partition("\n")
    return f"{first} ({text}){newline}{rest}" if text else message


class Phase(enum.Enum):
    """Each with text and a number for metrics; the numbers never change their meaning."""

    STARTING = ("Starting", 0)
    READY = ("Ready", 1)
    DEGRADED = ("Degraded", 2)
    DRAINING = ("Draining", 3)
    STOPPED = ("Stopped", 4)
    UNKNOWN = ("Unknown", 5)
    WAITING = ("Waiting", 6)

    @property
    def text(self) -> str:
        return self.value[0]

    @property
    def number(self) -> int:
        return self.value[1]


def phase(conditions: tuple[Condition, ...], *, was_ready: bool, stopping: bool) -> Phase:
    """Derived, never stored: Ready when all are True and nothing went wrong; Degraded when once ready and something did."""
    if stopping:
        return Phase.DRAINING
    complete = bool(conditions) and all(c.truth is Truth.TRUE for c in conditions)
    if complete and not any(c.problem and not c.problem.standing for c in conditions):
        return Phase.READY
    if complete or was_ready:
        return Phase.DEGRADED
    return Phase.STARTING


def worst(conditions: tuple[Condition, ...]) -> Condition | None:
    """The condition to name first: errors before warnings before what is merely not yet true."""
    rank = {Severity.ERROR: 0, Severity.WARNING: 1}
    wrong = [c for c in conditions if c.problem or c.truth is not Truth.TRUE]
    return min(wrong, key=lambda c: rank[c.problem.severity] if c.problem else 2, default=None)


_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""All control characters but tab and the end of a line; those that turn the order of what follows; other ends of a line."""


def harmless(text: str) -> str:
    """Some messages are the controller's or the application's: what would command a terminal becomes a question mark."""
    return _COMMANDS.sub("?", text)
