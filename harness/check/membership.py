"""The machine as a member: the daemon, its registration, and what it says of each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import check_problems as problems
from harness.check.context import Context
from harness.check.report import NOT_LOOKED, Judge, Result, Untried
from harness.problems import REGISTRY

NAME = "meshexp-membership"
SILENT_SECONDS = 60.0
"""It writes its status at least every 15 s."""
_STOPPED = ("T", "t", "Z")  # proc(5): stopped, traced, zombie


@dataclass(frozen=True, slots=True)
class Facts:
    """`state`: of the daemon's process, as the kernel has it. `silent`: seconds since it last wrote its status."""

    state: str | Untried = NOT_LOOKED
    silent: float = 0.0


async def gather(context: Context) -> Facts:
    try:
        stat = Path(f"/proc/{int(context.status.get('pid', 0))}/stat").read_text()
        return Facts(stat.rpartition(")")[2].split()[0], context.wall - context.paths.status.stat().st_mtime)
    except (OSError, IndexError) as error:
        return Facts(Untried(f"the daemon's process or its status cannot be looked at: {error}"))


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to, status = Judge(NAME), context.status
    if status.get("phase") == "Waiting":
        yield to.failed("meshexp-harness has a configuration", problems.NOT_CONFIGURED, str(status.get("message", "")))
        return
    if not context.running:
        yield to.failed("meshexp-harness runs", problems.DAEMON_STOPPED, str(status.get("message", "")))
        return
    if isinstance(facts.state, Untried):
        yield to.skipped("meshexp-harness runs", facts.state.why)
        return
    yield to.passed(f"meshexp-harness runs (pid {status['pid']})")
    hangs = facts.state in _STOPPED or facts.silent > SILENT_SECONDS
    reason = f"its process is in state {facts.state}" if facts.state in _STOPPED else f"silent for {facts.silent:.0f} s"
    yield to.found("it keeps its status up to date", problems.DAEMON_HANGS, [reason] if hangs else [], tried=True)
    if hangs:
        yield to.skipped("what it says of each part", f"its last word is of {facts.silent:.0f} s ago")
        return
    yield from _judge_conditions(to, status)


def _judge_conditions(to: Judge, status: dict[str, Any]) -> Iterator[Result]:
    name = status["workload"]["name"]
    conditions = {condition["name"]: condition for condition in status["conditions"]}
    if not name and conditions.get("Registration", {}).get("problem") is None:
        text = str(conditions.get("Registration", {}).get("message", ""))
        yield to.failed("this machine is registered", problems.NOT_REGISTERED, text)
    for condition in conditions.values():
        problem = REGISTRY.get(condition["problem"]) if condition["problem"] else None
        if problem is not None:
            yield to.failed(condition["name"], problem, condition["message"])
        elif condition["status"] == "True":
            yield to.passed(f"{condition['name']}: {condition['message']}")
        else:
            yield to.skipped(condition["name"], f"not decided yet: {condition['message']}")
