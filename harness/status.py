"""Conditions, the phase that follows from them, and the snapshot that `meshexp status` prints. No I/O."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from harness.problems import Problem, Severity


class Truth(enum.Enum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """One sentence about one part. `problem` is set exactly when something is known to be wrong (also while `truth` is True)."""

    name: str
    truth: Truth
    message: str
    problem: Problem | None = None
    applies: bool = True
    """False where there is nothing to bring about, so that nothing was tried: nobody has configured it, or told of it."""


def encoded(condition: Condition, *, identity_made_here: bool = False) -> dict[str, str | bool | None]:
    """As `meshexp status -o json` has it."""
    problem = condition.problem
    return {
        "name": condition.name,
        "status": condition.truth.value,
        "applies": condition.applies,
        "message": condition.message,
        "problem": problem.code if problem else None,
        "severity": problem.severity.value if problem else None,
        "where": problem.where.of(identity_made_here=identity_made_here).value if problem else None,
        "hint": problem.hint if problem else None,
    }


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


_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all control characters but tab and the end of a line


def harmless(text: str) -> str:
    """Some messages are the controller's or the application's: what would command a terminal becomes a question mark."""
    return _COMMANDS.sub("?", text)
