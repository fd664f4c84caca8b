"""Whether a snapshot still counts: by the time since the boot and by the process, never by the wall clock."""

from __future__ import annotations

from typing import Any

import pytest

from harness import freshness
from harness.freshness import Process

NOW, STARTED = 5000.0, 4711
OURS = Process("S", STARTED)
HOUR_AHEAD = "2031-01-01T00:00:00.000+00:00"


def snapshot(age: float, valid: float = 30.0, at: str = "2026-11-30T00:00:00.000+00:00") -> dict[str, Any]:
    return {
        "pid": 77, "pid_started": STARTED, "phase": "Ready", "phase_number": 1, "ready": True, "reason": "Ready", "message": "",
        "since": at, "written": {"at": at, "uptime": NOW - age, "valid_seconds": valid},
        "conditions": [{"name": "Proxy", "status": "True", "message": "runs", "problem": None}],
    }  # fmt: skip


def judged(data: dict[str, Any], process: Process | None = OURS) -> dict[str, Any]:
    return freshness.judged(data, process, NOW, freshness.Ways(lambda: "start it", lambda: "restart it"))


@pytest.mark.parametrize("age", [-0.0005, 0.0, 29.9, 30.0])
@pytest.mark.parametrize(
    "process", [OURS, Process("R", STARTED), Process("D", STARTED), Process("t", STARTED), Process("", None)]
)
def test_it_counts_for_as_long_as_it_says(age: float, process: Process) -> None:
    assert judged(snapshot(age), process) == snapshot(age)


def test_then_the_daemon_hangs_and_nothing_of_it_is_said_to_be_so() -> None:
    found = judged(snapshot(40.2))
    assert (found["phase"], found["phase_number"], found["ready"], found["reason"]) == ("Unknown", 5, False, "Unknown")
    assert found["message"] == "the daemon (pid 77) has not written for 40 s: it hangs (state S); restart it"
    assert found["conditions"][0]["status"] == "Unknown"
    assert found["conditions"][0]["message"] == "40 s ago: runs"
    assert found["pid"] == 77, "what was last known can still be read"


def test_one_that_is_stopped_by_a_signal_is_known_at_once() -> None:
    found = judged(snapshot(1.0), Process("T", STARTED))
    assert (found["phase"], found["ready"]) == ("Unknown", False)
    assert found["message"].startswith("the daemon (pid 77) is stopped (state T) and has not written for 1 s; `kill -CONT 77`")


@pytest.mark.parametrize(
    ("age", "process"),
    [
        (1.0, None),
        (1.0, Process("Z", STARTED)),
        (1.0, Process("S", STARTED + 1)),
        (-1.0, OURS),
    ],
    ids=["gone", "a zombie", "another process has its pid", "written before a reboot"],
)
def test_a_daemon_that_is_gone_says_nothing(age: float, process: Process | None) -> None:
    found = judged(snapshot(age), process)
    assert (found["phase"], found["ready"]) == ("Stopped", False)
    assert "conditions" not in found


@pytest.mark.parametrize("at", ["1970-01-01T00:00:00.000+00:00", HOUR_AHEAD])
def test_a_clock_that_was_set_changes_nothing(at: str) -> None:
    assert judged(snapshot(3.0, at=at))["phase"] == "Ready"
    assert judged(snapshot(31.0, at=at))["phase"] == "Unknown"


@pytest.mark.parametrize("state", ["S", "T"])
def test_a_daemon_of_an_older_version_is_judged_by_its_process(state: str) -> None:
    data = {name: value for name, value in snapshot(0).items() if name not in ("written", "pid_started")}
    assert judged(data, Process(state, STARTED))["phase"] == {"S": "Ready", "T": "Unknown"}[state]


@pytest.mark.parametrize(
    ("lease", "valid", "beat"),
    [(None, 60.0, 15.0), (1.0, 5.0, 5 / 3), (5.0, 5.0, 5 / 3), (30.0, 30.0, 10.0), (600.0, 60.0, 15.0)],
)
def test_it_counts_for_about_a_lease_and_is_written_three_times_in_that(lease: float | None, valid: float, beat: float) -> None:
    assert (freshness.valid_seconds(lease), freshness.beat_seconds(lease)) == (valid, beat)
