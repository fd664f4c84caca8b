"""All that is known of a problem, for `meshexp explain` and for docs/troubleshooting.md. Pure."""

from __future__ import annotations

import re

from harness import hints, phrases
from harness.check_problems import REGISTRY, Problem
from harness.errors import UsageError

PAGE = "https://github.com/meshexp/meshexp-harness/blob/main/docs/troubleshooting.md"
"""Under the Homepage that the packages name (test_explain.py)."""
DOCS = PAGE.rpartition("/")[0] + "/"
"""Where the alerts' runbooks are, too."""
_IPROUTE = "`ss` and `ip` come with the package iproute2 (EL: iproute), which a container may lack."
_STANDING = "This is how the machine is set up: status names it, and the machine stays Ready."


def ordered() -> tuple[Problem, ...]:
    return tuple(sorted(REGISTRY.values(), key=lambda problem: problem.code))


def find(code: str) -> Problem:
    """Raises UsageError for a code that nothing has."""
    found = REGISTRY.get(code.strip().lower())
    if found is None:
        guess = phrases.near(code, REGISTRY)
        raise UsageError(f"there is no problem {code!r}", f"{guess} `meshexp explain` lists all".lstrip())
    return found


def title(problem: Problem) -> str:
    return f"{problem.title[0].upper()}{problem.title[1:]} ({problem.severity.value})."


def advice(problem: Problem) -> tuple[tuple[str, str], ...]:
    """What came back, in words, and what to do then; the first of all is for everything else."""
    cases = [(words, hints.put(case, hints.GENERAL | hints.SPECIFIC)) for words, case in problem.cases]
    return ("", problem.hint), *cases


def paragraphs(problem: Problem) -> tuple[str, ...]:
    """Without the heading."""
    (_, general), *cases = advice(problem)
    told = [title(problem), f"What to do: {general}."]
    said: dict[str, list[str]] = {}
    for words, case in cases:
        said.setdefault(case, []).append(f'"{words}"')
    told += [f"Where the message says {' or '.join(words)}: {case}." for case, words in said.items()]
    if re.search(r"`(ss|ip) ", " ".join(told)):
        told.append(_IPROUTE)
    told.append(f"Where to fix it: {problem.where.text}.")
    return (*told, _STANDING) if problem.standing else tuple(told)


def url(problem: Problem) -> str:
    return f"{PAGE}#{problem.code}"


def record(problem: Problem) -> dict[str, object]:
    """As `meshexp explain -o json` has it."""
    (_, general), *cases = advice(problem)
    return {
        "code": problem.code,
        "title": problem.title,
        "severity": problem.severity.value,
        "standing": problem.standing,
        "where": problem.where.value,
        "hint": general,
        "cases": [{"came_back": words, "hint": case} for words, case in cases],
        "url": url(problem),
    }
