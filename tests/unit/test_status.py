"""The phase that conditions add up to."""

from __future__ import annotations

import pytest

from harness import problems, status
from harness.status import Condition, Phase, Truth

UP = Condition("Proxy", Truth.TRUE, "runs")
DOWN = Condition("Proxy", Truth.FALSE, "does not run", problems.PROXY_CRASH_LOOP)


def with_problem(problem: problems.Problem) -> Condition:
    return Condition("Identity", Truth.TRUE, "valid", problem)


@pytest.mark.parametrize(
    ("condition", "was_ready", "phase"),
    [
        (UP, False, Phase.READY),
        (DOWN, False, Phase.STARTING),
        (DOWN, True, Phase.DEGRADED),
        (with_problem(problems.CONTROLLER_UNREACHABLE), False, Phase.DEGRADED),
        (with_problem(problems.IDENTITY_ROOT_KEY), False, Phase.READY),
        (with_problem(problems.PROXY_ENV_OVERRIDDEN), True, Phase.READY),
    ],
)
def test_ready_means_that_nothing_went_wrong(condition: Condition, was_ready: bool, phase: Phase) -> None:
    assert status.phase((condition,), was_ready=was_ready, stopping=False) is phase


def test_what_a_machine_is_set_up_with_is_named_although_it_is_ready() -> None:
    conditions = (UP, with_problem(problems.IDENTITY_ROOT_KEY))
    assert status.phase(conditions, was_ready=True, stopping=False) is Phase.READY
    assert status.worst(conditions) is conditions[1]
    assert all(p.severity is problems.Severity.WARNING for p in problems.REGISTRY.values() if p.standing)
