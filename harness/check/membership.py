"""The machine as a member: the daemon, its registration, and what it says of each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness import check_problems as problems
from harness import phrases
from harness.check.context import Context, needs_root
from harness.check.report import NOT_LOOKED, Judge, Result, Untried
from harness.denied import is_denied
from harness.problems import LEASE_LAPSED, Severity
from harness.status import Phase, problem_of, told

NAME = "meshexp-membership"
HEARD = "the cluster still hears this machine"


@dataclass(frozen=True, slots=True)
class Facts:
    """`status`: what the daemon says, judged by whether it still counts."""

    status: dict[str, Any] | Untried = NOT_LOOKED


async def gather(context: Context) -> Facts:
    if not context.root and is_denied(context.paths.status):
        return Facts(needs_root(f"{context.paths.status} cannot be read by this user"))
    return Facts(context.status)


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to = Judge(NAME)
    status = facts.status
    if isinstance(status, Untried):
        yield to.skipped("meshexp-harness runs", status.why)
        return
    phase = status.get("phase")
    message = str(status.get("message", ""))
    if phase == Phase.WAITING.text:
        yield to.failed("meshexp-harness has a configuration", problems.NOT_CONFIGURED, message)
        return
    if phase == Phase.STOPPED.text:
        yield to.failed("meshexp-harness runs", problems.DAEMON_STOPPED, message)
        return
    if phase == Phase.UNKNOWN.text:  # its conditions are old
        yield to.failed("meshexp-harness keeps its status up to date", problems.DAEMON_HANGS, message)
        if any(words in message for words in phrases.NO_ROOM):
            yield to.skipped(HEARD, "the daemon has no room to write whether it does")
            return
        yield to.failed(HEARD, problems.DAEMON_HANGS, "only a daemon that goes on renews the lease")
        return
    yield to.passed(f"meshexp-harness runs (pid {status['pid']}) and keeps its status up to date")
    yield from _judge_conditions(to, status, context.wall)


def _judge_conditions(to: Judge, status: dict[str, Any], wall: float) -> Iterator[Result]:
    name = status.get("workload", {}).get("name")  # a daemon that cannot begin has none
    conditions = {condition["name"]: condition for condition in status["conditions"]}
    registration = conditions.get("Registration", {})
    if not name and registration.get("severity") != Severity.ERROR.value:  # an error says it itself
        yield to.failed("this machine is registered", problems.NOT_REGISTERED, str(registration.get("message", "")))
    if registration.get("problem") == LEASE_LAPSED.code:
        said = conditions.pop("Registration")
        yield to.failed(HEARD, problem_of(said) or LEASE_LAPSED, told(said, wall))
    elif status.get("reported"):
        yield to.passed(HEARD)
    for condition in conditions.values():
        problem = problem_of(condition)
        if problem is not None:
            yield to.failed(condition["name"], problem, told(condition, wall))
        elif not condition.get("applies", True):
            yield to.skipped(condition["name"], condition["message"])
        elif condition["status"] == "True":
            yield to.passed(f"{condition['name']}: {condition['message']}")
        else:
            yield to.skipped(condition["name"], f"not decided yet: {condition['message']}")
