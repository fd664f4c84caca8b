"""For how long something has been wrong: counted in one place, shown behind the message."""

from __future__ import annotations

import datetime
from typing import Any

from harness import problems, times
from harness.daemon.standing import Standing
from harness.status import Condition, Truth, encoded, made_worse, retold, told, wrong

DOWN = problems.PROBE_FAILED.found(
    "GET http://127.0.0.1:8000/ready", "connection refused", port=8000, key="", uid="", command=()
)  # fmt: skip


def failing(counts: str = "", came: str = "connection refused") -> Condition:
    found = problems.PROBE_FAILED.found("GET http://127.0.0.1:8000/ready", came, port=8000, key="", uid="", command=())
    return wrong("Application", Truth.FALSE, found, counts=counts)


def test_the_time_begins_when_the_problem_does_and_no_other_words_begin_it_again() -> None:
    standing = Standing()
    fine = Condition("Application", Truth.TRUE, "the probe passes")
    assert [change.before for change in standing.take((fine,), 100.0)] == [""]
    (change,) = standing.take((failing("1 failure"),), 110.0)
    assert (change.before, change.seconds) == ("True", 10.0)
    assert standing.take((failing("2 failures", "HTTP 500"),), 120.0) == ()
    assert standing.since == {"Application": 110.0}
    (change,) = standing.take((fine,), 150.0)
    assert (change.before, change.seconds) == ("probe-failed", 40.0)


def test_what_is_gone_is_forgotten_and_a_clock_that_was_set_back_makes_nothing_negative() -> None:
    standing = Standing()
    standing.take((failing(),), 100.0)
    assert standing.take((), 110.0) == () and standing.since == {}
    standing.take((failing(),), 120.0)
    (change,) = standing.take((Condition("Application", Truth.TRUE, ""),), 50.0)
    assert change.seconds == 0.0


def said(condition: Condition, since: float = 100.0) -> dict[str, Any]:
    return encoded(condition, since=datetime.datetime.fromtimestamp(since, datetime.UTC).isoformat())


def test_the_most_common_failure_is_told_in_one_sentence() -> None:
    condition = said(failing("probe 1 of 1, 4 failures"))
    assert told(condition, 112.0) == ("GET http://127.0.0.1:8000/ready: connection refused (probe 1 of 1, 4 failures, for 12 s)")
    assert condition["hint"] is not None and condition["hint"].startswith("is it listening? `ss -ltnp 'sport = :8000'`")


def test_what_is_well_has_no_time_behind_it_and_further_lines_stay_below() -> None:
    assert told(said(Condition("Proxy", Truth.TRUE, "runs")), 112.0) == "runs"
    assert told(said(Condition("Configuration", Truth.FALSE, "1 fault\n  a: b")), 112.0) == "1 fault (for 12 s)\n  a: b"
    assert told(said(failing()), 50.0).endswith("(for 0 s)"), "a clock that was set back"
    older = {name: value for name, value in said(failing()).items() if name not in ("since", "counts")}
    assert told(older, 112.0) == str(DOWN), "a daemon of version 0.1 does not tell since when"


def test_a_part_that_works_all_the_same_says_how_it_stands() -> None:
    runs = Condition("Proxy", Truth.TRUE, "runs")
    worse = made_worse(runs, problems.STEP_FAILED.found("writing the status", "No space left on device"))
    assert worse.message == "runs; writing the status: No space left on device" and worse.problem is problems.STEP_FAILED


def test_what_another_daemon_tells_keeps_the_hint_that_it_made() -> None:
    condition = retold("Application", said(failing()), "the first workload's")
    assert condition.message == f"the first workload's: {DOWN}"
    assert condition.hint() == said(failing())["hint"] and condition.problem is not None
    assert condition.problem.code == "probe-failed"


def test_a_length_of_time_has_two_units() -> None:
    assert [times.span(seconds) for seconds in (4.9, 75.0, 3700.0, 90000.0, -5.0)] == [
        "4 s", "1 min", "1 h 1 min", "1 d 1 h", "-5 s"
    ]  # fmt: skip
