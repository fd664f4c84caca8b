"""The machine as a member: the daemon, its registration, and what it says of each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import check_problems as problems
from harness.check.context import Context
from harness.check.report import Judge, Result
from harness.problems import REGISTRY

SILENT_SECONDS = 60.0
"""It writes its status at least every 15 s."""
_STOPPED = ("T", "t", "Z")  # proc(5): stopped, traced, zombie


@dataclass(frozen=True, slots=True)
class Facts:
    """`state`: of the daemon's process, as the kernel has it. `silent`: seconds since it last wrote its status."""

    state: str
    silent: float


async def gather(context: Context) -> Facts:
    try:
        stat = Path(f"/proc/{int(context.status.get('pid', 0))}/stat").read_text()
        return Facts(stat.rpartition(")")[2].split()[0], context.wall - context.paths.status.stat().st_mtime)
    except (OSError, IndexError):
        return Facts("", 0.0)


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to, status = Judge("meshexp-membership"), context.status
    if not context.running:
        yield to.failed("meshexp-harness runs", problems.DAEMON_STOPPED, str(status.get("message", "")))
        return
    yield to.passed(f"meshexp-harness runs (pid {status['pid']})")
    hangs = facts.state in _STOPPED or facts.silent > SILENT_SECONDS
    reason = f"its process is in state {facts.state}" if facts.state in _STOPPED else f"silent for {facts.silent:.0f} s"
    yield to.found("it keeps its status up to date", problems.DAEMON_HANGS, [reason] if hangs else [])
    name = status["workload"]["name"]
    conditions = {condition["name"]: condition for condition in status["conditions"]}
    if not name and conditions.get("Registration", {}).get("problem") is None:
        text = str(conditions.get("Registration", {}).get("message", ""))
        yield to.failed("this machine is registered", problems.NOT_REGISTERED, text)
    for condition in conditions.values():
        problem = REGISTRY.get(condition["problem"]) if condition["problem"] else None
        text = f"{condition['name']}: {condition['message']}"
        yield to.failed(condition["name"], problem, condition["message"]) if problem else to.passed(text)
