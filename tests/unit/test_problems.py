"""Each problem says where it is solved, and `status --local` goes by that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness import check_problems, cli, problems, reference, status_cli
from harness.problems import Problem, Severity, Where
from tests.mesh import ROOT

ALL = check_problems.REGISTRY


def condition(problem: Problem | None, status: str, *, identity_made_here: bool = True) -> dict[str, Any]:
    where = problem.where.of(identity_made_here=identity_made_here).value if problem else None
    severity = problem.severity.value if problem else None
    return {
        "name": "Part", "status": status, "message": "", "problem": problem.code if problem else None, "severity": severity,
        "where": where, "hint": "",
    }  # fmt: skip


def wrong(*conditions: dict[str, Any], phase: str = "Degraded") -> bool:
    return bool(status_cli.wrong_here({"phase": phase, "conditions": list(conditions)}))


@pytest.mark.parametrize("code", sorted(ALL))
def test_each_says_where_it_is_solved_and_so_does_the_page(code: str) -> None:
    problem = ALL[code]
    assert isinstance(problem.where, Where)
    page = reference.troubleshooting()
    entry = page[page.index(f"## {code}\n") :].partition("\n## ")[0]
    assert f"Where to fix it: {problem.where.text}." in entry


@pytest.mark.parametrize("code", sorted(ALL))
@pytest.mark.parametrize("here", [True, False])
def test_local_is_false_for_an_error_of_this_machine_and_for_nothing_else(code: str, here: bool) -> None:
    problem = ALL[code]
    counts = problem.severity is Severity.ERROR and problem.where.of(identity_made_here=here) is Where.MACHINE
    for status in ("True", "False", "Unknown"):
        assert wrong(condition(problem, status, identity_made_here=here)) is counts


@pytest.mark.parametrize(
    "problem",
    [
        problems.CONTROLLER_UNREACHABLE, problems.LEASE_LAPSED, problems.CONTROLLER_UNTRUSTED, problems.REGISTRATION_REFUSED,
        problems.CORDONED, problems.CONFIG_RELOAD_FAILED, problems.ROUTE_NODE_SILENT,
    ],
    ids=lambda problem: problem.code,
)  # fmt: skip
def test_an_outage_and_an_operators_wish_restart_no_fleet(problem: Problem) -> None:
    for status in ("True", "False", "Unknown"):
        assert not wrong(condition(problem, status))


def test_what_a_spire_server_elsewhere_does_not_issue_restarts_no_fleet_either() -> None:
    for problem in (problems.IDENTITY_EXPIRING, problems.SPIRE_FAILING, problems.PROXY_NOT_CERTIFIED):
        assert wrong(condition(problem, "False", identity_made_here=True))
        assert not wrong(condition(problem, "False", identity_made_here=False))


@pytest.mark.parametrize(
    ("problem", "status", "counts"),
    [
        (problems.PROBE_FAILED, "False", True),
        (problems.PROXY_CRASH_LOOP, "False", True),
        (problems.REDIRECT_FAILED, "False", True),
        (None, "False", True),
        (None, "Unknown", False),
        (None, "True", False),
    ],
)
def test_what_this_machine_does_not_do_counts_and_what_it_waits_for_does_not(
    problem: Problem | None, status: str, counts: bool
) -> None:
    assert wrong(condition(problem, status)) is counts


@pytest.mark.parametrize(
    ("phase", "counts"),
    [("Starting", False), ("Ready", False), ("Draining", False), ("Stopped", True), ("Unknown", True), ("Waiting", True)],
)
def test_without_a_daemon_that_goes_on_it_is_false(phase: str, counts: bool) -> None:
    assert wrong(phase=phase) is counts


def test_the_image_asks_for_that_and_not_for_ready() -> None:
    """An orchestrator restarts what is unhealthy."""
    text = (ROOT / "docker" / "demo-external-base" / "Dockerfile").read_text()
    check = next(line for line in text.splitlines() if line.startswith("HEALTHCHECK"))
    program, *words = json.loads(check.partition(" CMD ")[2])
    options = cli.parser("status").parse_args(words)
    assert (program, options.verb, options.local, options.wait) == ("meshexp", "status", True, None)
