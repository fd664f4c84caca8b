"""The machine as a member: the daemon, its registration, and what it says of each part."""

from __future__ import annotations

from collections.abc import Iterator

from harness import check_problems as problems
from harness.check.context import Context
from harness.check.report import Judge, Result
from harness.problems import LEASE_LAPSED, REGISTRY
from harness.status import Phase

HEARD = "the cluster still hears this machine"


async def gather(context: Context) -> None:
    """All is in the status."""


def judge(context: Context, facts: None) -> Iterator[Result]:
    to, status = Judge("meshexp-membership"), context.status
    if not context.running:
        yield to.failed("meshexp-harness runs", problems.DAEMON_STOPPED, str(status.get("message", "")))
        return
    if status["phase"] == Phase.UNKNOWN.text:  # what it said before is nothing that is so now
        yield to.failed("meshexp-harness keeps its status up to date", problems.DAEMON_HANGS, status["message"])
        yield to.failed(HEARD, problems.DAEMON_HANGS, "only a daemon that goes on renews the lease")
        return
    yield to.passed(f"meshexp-harness runs (pid {status['pid']}) and keeps its status up to date")
    name = status["workload"]["name"]
    conditions = {condition["name"]: condition for condition in status["conditions"]}
    if not name and conditions.get("Registration", {}).get("problem") is None:
        text = str(conditions.get("Registration", {}).get("message", ""))
        yield to.failed("this machine is registered", problems.NOT_REGISTERED, text)
    if conditions.get("Registration", {}).get("problem") == LEASE_LAPSED.code:
        yield to.failed(HEARD, LEASE_LAPSED, conditions.pop("Registration")["message"])
    elif status["reported"]:
        yield to.passed(HEARD)
    for condition in conditions.values():
        problem = REGISTRY.get(condition["problem"]) if condition["problem"] else None
        text = f"{condition['name']}: {condition['message']}"
        yield to.failed(condition["name"], problem, condition["message"]) if problem else to.passed(text)
