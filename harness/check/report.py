"""What checks find, and its output as `linkerd check` has it: table, short, or JSON. Pure."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from harness.problems import Problem, Severity
from harness.terminal import harmless


class Outcome(enum.Enum):
    """Each with its name in JSON, its sign, and the colour of that. Of these, only FAILED is a failure."""

    PASSED = ("success", "√", "32;1")
    WARNING = ("warning", "‼", "33;1")
    FAILED = ("error", "×", "31;1")
    SKIPPED = ("skipped", "-", "90")
    """It was not tried: it could not be, or there was nothing to look at."""


@dataclass(frozen=True, slots=True)
class Untried:
    """Stands in the place of a fact that could not be looked at."""

    why: str


NOT_LOOKED = Untried("nobody has looked")


def reasons_untried(*facts: object) -> str:
    """Why some of the facts are not known; empty when all are."""
    return "; ".join(dict.fromkeys(fact.why for fact in facts if isinstance(fact, Untried)))


@dataclass(frozen=True, slots=True)
class Result:
    """One check. `problem` is set exactly when something is wrong; `reason` is what was seen, or why nothing was tried."""

    category: str
    description: str
    outcome: Outcome
    problem: Problem | None = None
    reason: str = ""


def on_this_machine(result: Result, known: Mapping[str, str]) -> Result:
    """With the machine's own values in its hint."""
    return dataclasses.replace(result, problem=result.problem.narrowed(known=known)) if result.problem else result


_OUTCOMES = {Severity.WARNING: Outcome.WARNING, Severity.ERROR: Outcome.FAILED}


@dataclass(frozen=True, slots=True)
class Judge:
    """Makes the results of one category."""

    category: str

    def passed(self, description: str) -> Result:
        """Only for what was really tried."""
        return Result(self.category, description, Outcome.PASSED)

    def skipped(self, description: str, why: str) -> Result:
        return Result(self.category, description, Outcome.SKIPPED, None, why)

    def failed(self, description: str, problem: Problem, reason: str = "") -> Result:
        came = reason or problem.title
        return Result(self.category, description, _OUTCOMES[problem.severity], problem.narrowed(came), came)

    def found(
        self, description: str, problem: Problem, reasons: Iterable[str], *, tried: bool, why: str = NOT_LOOKED.why
    ) -> Result:
        """Failed for any reason, also if not all was tried. Without a reason passed if all was `tried`, else skipped."""
        if text := "; ".join(reasons):
            return self.failed(description, problem, text)
        return self.passed(description) if tried else self.skipped(description, why)


def codes(results: Iterable[Result]) -> str:
    """Of the problems that let the check fail."""
    found = (result.problem.code for result in results if result.outcome is Outcome.FAILED and result.problem)
    return ", ".join(dict.fromkeys(found))


def success(results: Iterable[Result]) -> bool:
    """Warnings are no failure, as in `linkerd check`; nor is what was skipped."""
    return not any(result.outcome is Outcome.FAILED for result in results)


@dataclass(slots=True)
class Table:
    """Makes the lines of one result after the other, so that each can be printed as it comes. `short`: only what is wrong."""

    colour: bool
    short: bool = False
    _category: str = ""

    def lines(self, result: Result) -> Iterator[str]:
        if self.short and result.problem is None:
            return
        if result.category != self._category:
            if self._category:
                yield ""
            yield result.category
            yield "-" * len(result.category)
            self._category = result.category
        yield from _lines(result, self.colour)

    def end(self, results: tuple[Result, ...]) -> Iterator[str]:
        if self._category:
            yield ""
        yield _summary(results, self.colour)


def table(results: tuple[Result, ...], *, colour: bool, short: bool = False) -> str:
    made = Table(colour, short)
    lines = [line for result in results for line in made.lines(result)]
    return "\n".join([*lines, *made.end(results)])


def _lines(result: Result, colour: bool) -> Iterator[str]:
    yield f"{_sign(result.outcome, colour)} {_line(result.description)}"
    if result.outcome is Outcome.SKIPPED:
        yield f"    skipped: {_line(result.reason)}"
    if result.problem is not None:
        yield from (f"    {line}" for line in harmless(result.reason).splitlines())
        yield f"    {result.problem.code}: {_line(result.problem.hint)}"
        yield f"    see {result.problem.explain} for hints"


def _line(text: str) -> str:
    """What came from outside must not look like the result of another check."""
    return harmless(text).replace("\n", "\n    ")


def _summary(results: tuple[Result, ...], colour: bool) -> str:
    """√ only when something was really tried."""
    skipped = sum(result.outcome is Outcome.SKIPPED for result in results)
    outcome = Outcome.PASSED if success(results) else Outcome.FAILED
    if skipped == len(results):
        outcome = Outcome.SKIPPED
    return f"Status check results are {_sign(outcome, colour)}" + (f" ({skipped} skipped)" if skipped else "")


def _sign(outcome: Outcome, colour: bool) -> str:
    _, sign, code = outcome.value
    return f"\x1b[{code}m{sign}\x1b[0m" if colour else sign


def document(results: tuple[Result, ...]) -> dict[str, Any]:
    """The fields of `linkerd check -o json`; `code`, `remedy`, and `reason` of what was skipped, are ours."""
    categories = [
        {"categoryName": category, "checks": [_as_json(result) for result in members]}
        for category, members in groupby(results, lambda result: result.category)
    ]
    return {"success": success(results), "categories": categories}


def linkerd_document(results: tuple[Result, ...]) -> dict[str, Any]:
    """What `linkerd check` reads of an extension. It shows each result that is neither a warning nor an error as √, so skipped
    results are left out, as Linkerd leaves out checks that it does not reach."""
    return document(tuple(result for result in results if result.outcome is not Outcome.SKIPPED))


def _as_json(result: Result) -> dict[str, str]:
    data = {"description": result.description}
    if result.problem is not None:
        data |= {"hint": result.problem.explain, "error": result.reason}
        data |= {"code": result.problem.code, "remedy": result.problem.hint}
    if result.outcome is Outcome.SKIPPED:
        data |= {"reason": result.reason}
    return data | {"result": result.outcome.value[0]}
