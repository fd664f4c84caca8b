"""What a further workload says of routes and DNS, which are the first's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from harness import problems
from harness.reconcilers.shared import LOOK_SECONDS, Shared
from harness.status import Condition, Truth
from tests.snapshots import snapshot

TOLD = {
    "name": "Routes", "status": "True", "message": "2 routes in place", "problem": "route-node-silent", "severity": "warning",
    "hint": "", "where": "cluster",
}  # fmt: skip


def conditions(file: Path, seconds: float = 0.0) -> tuple[Condition, list[str]]:
    """And what woke the cycle within so many seconds."""
    woken: list[str] = []

    async def look() -> Condition:
        shared = Shared("routes", "Routes", file, woken.append)
        observed = await shared.observe()
        assert shared.diff((), observed) == shared.diff(None, observed) == ()
        await asyncio.sleep(seconds)
        return shared.condition((), observed)

    return asyncio.run(look()), woken


def test_without_the_first_it_says_so_and_looks_again(tmp_path: Path) -> None:
    condition, woken = conditions(tmp_path / "status.json", 1.2 * LOOK_SECONDS)
    assert (condition.truth, condition.problem) == (Truth.FALSE, problems.FIRST_WORKLOAD_STOPPED)
    assert woken == ["the first workload's routes may be in place"]


def test_it_passes_on_what_the_first_says(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps(snapshot() | {"conditions": [TOLD]}))
    condition, woken = conditions(tmp_path / "status.json")
    assert condition == Condition(
        "Routes", Truth.TRUE, "the first workload's: 2 routes in place", problems.REGISTRY["route-node-silent"]
    )
    assert woken == []


def test_a_first_that_was_killed_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps(snapshot() | {"pid": 2**22, "conditions": [TOLD]}))
    assert conditions(tmp_path / "status.json")[0].truth is Truth.FALSE


def test_of_a_first_that_hangs_nothing_is_known(tmp_path: Path) -> None:
    written = {"at": snapshot()["written"]["at"], "uptime": 0.0, "valid_seconds": 1.0}
    (tmp_path / "status.json").write_text(json.dumps(snapshot() | {"conditions": [TOLD], "written": written}))
    condition, woken = conditions(tmp_path / "status.json", 1.2 * LOOK_SECONDS)
    assert (condition.truth, condition.problem) == (Truth.UNKNOWN, problems.FIRST_WORKLOAD_STOPPED)
    assert "it hangs" in condition.message
    assert woken == ["the first workload's routes may be in place"]
