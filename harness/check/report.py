"""What checks find, and its output as `linkerd check` has it: table, short, or the JSON that `linkerd check` reads. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from harness.problems import Problem, Severity

_SIGNS = {None: ("√", "32"), Severity.WARNING: ("‼", "33"), Severity.ERROR: ("×", "31")}
_RESULTS = {None: "success", Severity.WARNING: "warning", Severity.ERROR: "error"}


@dataclass(frozen=True, slots=True)
class Result:
    """One check. Without a problem it passed; `reason` is what was seen."""

    category: str
    description: str
    problem: Problem | None = None
    reason: str = ""

    @property
    def severity(self) -> Severity | None:
        return self.problem.severity if self.problem else None


@dataclass(frozen=True, slots=True)
class Judge:
    """Makes the results of one category."""

    category: str

    def passed(self, description: str) -> Result:
        return Result(self.category, description)

    def failed(self, description: str, problem: Problem, reason: str = "") -> Result:
        return Result(self.category, description, problem, reason or problem.title)

    def found(self, description: str, problem: Problem, reasons: Iterable[str]) -> Result:
        """Failed when there is any reason."""
        text = "; ".join(reasons)
        return self.failed(description, problem, text) if text else self.passed(description)


def success(results: Iterable[Result]) -> bool:
    """Warnings are no failure, as in `linkerd check`."""
    return not any(result.severity is Severity.ERROR for result in results)


def table(results: tuple[Result, ...], *, colour: bool, short: bool = False) -> str:
    """`short`: only what did not pass."""
    lines: list[str] = []
    shown = [result for result in results if result.problem or not short]
    for category, members in groupby(shown, lambda result: result.category):
        lines += [category, "-" * len(category)]
        for result in members:
            lines += _lines(result, colour)
        lines.append("")
    sign = _sign(None if success(results) else Severity.ERROR, colour)
    return "\n".join([*lines, f"Status check results are {sign}"])


def _lines(result: Result, colour: bool) -> Iterator[str]:
    yield f"{_sign(result.severity, colour)} {result.description}"
    if result.problem is not None:
        yield from (f"    {line}" for line in result.reason.splitlines())
        yield f"    {result.problem.code}: {result.problem.hint}"
        yield f"    see {result.problem.anchor} for hints"


def _sign(severity: Severity | None, colour: bool) -> str:
    sign, code = _SIGNS[severity]
    return f"\x1b[{code};1m{sign}\x1b[0m" if colour else sign


def to_json(results: tuple[Result, ...]) -> str:
    """The fields of `linkerd check -o json`; `code` and `remedy` are ours."""
    categories = [
        {"categoryName": category, "checks": [_as_json(result) for result in members]}
        for category, members in groupby(results, lambda result: result.category)
    ]
    return json.dumps({"success": success(results), "categories": categories}, indent=2, ensure_ascii=False)


def _as_json(result: Result) -> dict[str, str]:
    data = {"description": result.description}
    if result.problem is not None:
        data |= {"hint": result.problem.anchor, "error": result.reason}
        data |= {"code": result.problem.code, "remedy": result.problem.hint}
    return data | {"result": _RESULTS[result.severity]}


def render(results: tuple[Result, ...], output: str, *, colour: bool) -> str:
    if output == "json":
        return to_json(results)
    return table(results, colour=colour, short=output == "short")
