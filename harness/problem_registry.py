"""What a problem is, how it is met, and the one registry of all of them."""

from __future__ import annotations

import enum
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness import hints


class Severity(enum.Enum):
    WARNING = "warning"
    ERROR = "error"


class Where(enum.Enum):
    """Where a problem is fixed. Against a problem of another place than MACHINE, no restart on the machine helps."""

    MACHINE = "machine"
    CLUSTER = "cluster"
    EITHER = "either"
    IDENTITY = "identity"

    @property
    def text(self) -> str:
        """For the documentation."""
        return {
            Where.MACHINE: "on this machine",
            Where.CLUSTER: "in the cluster",
            Where.EITHER: "on this machine, in the network, or in the cluster",
            Where.IDENTITY: "on this machine where identity.mode is local or embedded; otherwise also at the SPIRE server",
        }[self]

    def of(self, *, identity_made_here: bool) -> Where:
        """On a given machine: MACHINE, CLUSTER or EITHER."""
        if self is not Where.IDENTITY:
            return self
        return Where.MACHINE if identity_made_here else Where.EITHER


@dataclass(frozen=True, slots=True)
class Problem:
    """`code` is stable, and what `meshexp explain` takes. `where`: at which place it is fixed.

    `advice`: how to fix it, with a command that shows more. `cases`: other advice, by words that are in what came back.
    Both have places for values (hints.py).
    `standing`: it is how this machine is set up, and nothing that went wrong: `status` names it, and the machine stays Ready.
    """

    code: str
    where: Where
    title: str
    severity: Severity
    advice: str
    standing: bool = False
    cases: tuple[tuple[str, str], ...] = ()

    @property
    def hint(self) -> str:
        """For a page, or where nothing of the machine is known."""
        return hints.put(self.advice, hints.GENERAL | hints.SPECIFIC)

    @property
    def explain(self) -> str:
        """The command that prints all that is known of it."""
        return f"`meshexp explain {self.code}`"

    def narrowed(self, came: str = "", known: Mapping[str, str] | None = None, **values: object) -> Problem:
        """With the advice for what came back. `known` and `values` are put into it, the first as they are, the others quoted."""
        advice = next((advice for words, advice in self.cases if words in came), self.advice)
        quoted = {name: _quoted(value) for name, value in values.items()}
        return self.advised(hints.put(advice, quoted | dict(known or {})))

    def advised(self, hint: str) -> Problem:
        """With a hint that has all its values already."""
        return replace(self, advice=hint, cases=())

    def found(self, tried: str, came: str, **values: object) -> Found:
        """As it was met: what was tried, what came back, and the values for its hints."""
        return Found(self, tried, came, tuple(values.items()))


@dataclass(frozen=True, slots=True)
class Found:
    """A problem as it was met. Its text stays the same as long as the same comes back."""

    problem: Problem
    tried: str
    came: str
    values: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        return f"{self.tried}: {self.came}"

    def hint(self, known: Mapping[str, str] = hints.GENERAL) -> str:
        """`known`: the general values of this machine."""
        return self.problem.narrowed(self.came, known, **dict(self.values)).hint


def _quoted(value: object) -> str:
    """As a shell wants it: people paste commands, and a value may be from outside. A tuple is a command's words."""
    return shlex.join(value) if isinstance(value, tuple) else shlex.quote(str(value))


REGISTRY: dict[str, Problem] = {}


def register(
    code: str,
    where: Where,
    title: str,
    hint: str,
    severity: Severity = Severity.ERROR,
    standing: bool = False,
    cases: Mapping[str, str] | None = None,
) -> Problem:
    problem = Problem(code, where, title, severity, hint, standing, tuple((cases or {}).items()))
    if REGISTRY.setdefault(code, problem) is not problem:
        raise ValueError(f"problem code {code} is registered twice")
    return problem
