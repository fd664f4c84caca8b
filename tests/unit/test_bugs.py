"""Errors that no code expected: what becomes of the work that met one, and what the daemon makes of it. Time is the tests'."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import structlog

from harness import problems, tasks
from harness.daemon.bugs import AGAIN_SECONDS, MOST_KEPT, SHOWN_SECONDS, Bugs
from harness.daemon.cleanup import stays
from harness.errors import HarnessError, InternalError, TemporaryError, UnavailableError
from harness.paths import Paths
from tests.controller_support import StandingClock, settle

UNIT = "meshexp-harness.service"


def _drop(*_: object) -> Any:
    raise structlog.DropEvent


SILENT = structlog.wrap_logger(None, processors=[_drop])


class QuickClock(StandingClock):
    """Every sleep is over at once, and has taken its time."""

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> list[tuple[str, BaseException]]:
    """What was told meanwhile."""
    told: list[tuple[str, BaseException]] = []

    async def main() -> None:
        tasks.on_bug(lambda what, error: told.append((what, error)))
        await work()

    asyncio.run(main())
    return told


def bugs(folder: Path, clock: StandingClock, unit: str | None = None) -> Bugs:
    return Bugs(Paths(run=folder), clock, lambda reason: None, SILENT, unit)


@pytest.mark.parametrize("error", [OverflowError("too large"), MemoryError(), OSError(28, "No space left"), HarnessError("no")])
def test_kept_work_survives_ten_thousand_errors(error: Exception) -> None:
    clock, tries = QuickClock(), 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries <= 10_000:
            raise error

    async def main() -> None:
        await tasks.keep("the work", work, clock)

    told = run(main)
    assert tries == 10_001
    assert told == [("the work", error)] * 10_000
    assert clock.seconds <= 10_000 * tasks.BACKOFF.most


def test_kept_work_is_cancelled_by_whoever_keeps_it_and_by_nobody_else() -> None:
    other: list[asyncio.Future[None]] = []

    async def work() -> None:
        other.append(asyncio.get_running_loop().create_future())
        await other[-1]

    async def main() -> None:
        kept = tasks.keep("the work", work, QuickClock())
        await settle()
        other[0].cancel()
        await settle()
        assert len(other) == 2, "what it waited for was cancelled: it runs again"
        kept.cancel()
        await asyncio.wait({kept})
        assert kept.cancelled()

    assert [what for what, _ in run(main)] == ["the work"]


def test_an_expected_error_passes_and_an_unexpected_one_is_told_and_is_one_for_the_caller() -> None:
    async def main() -> None:
        with pytest.raises(TemporaryError), tasks.unexpected("a step"):
            raise TemporaryError("later")
        with pytest.raises(InternalError, match=r"a step failed: KeyError: 'x'"), tasks.unexpected("a step"):
            dict[str, str]()["x"]

    assert [what for what, _ in run(main)] == ["a step"]


def test_what_failed_is_shown_while_it_lasts_and_for_a_while_after(tmp_path: Path) -> None:
    clock = StandingClock()

    async def main() -> None:
        found = bugs(tmp_path, clock)
        for _ in range(3):
            found.note("the cycle", OverflowError("too large\nand more"))
        clock.seconds += SHOWN_SECONDS - 1
        (condition,) = found.conditions()
        assert condition.problem is problems.INTERNAL_ERROR
        assert (
            condition.message == "the daemon's own work: "
            "the cycle failed 3 times since 2027-01-15 08:00:00Z, last with OverflowError: too large"
        )
        clock.seconds += 1
        assert found.conditions() == ()
        assert not found.fatal, "outside systemd nothing ends the daemon"

    run(main)


def test_however_many_fail_the_account_of_them_is_short(tmp_path: Path) -> None:
    async def main() -> None:
        found = bugs(tmp_path, StandingClock())
        for number in range(1000):
            found.note(f"step {number}", ValueError("x" * 10_000))
        (condition,) = found.conditions()
        assert len(condition.message) < 2000
        assert f"and {MOST_KEPT + 1 - 3} more" in condition.message
        assert found.number == 1000

    run(main)


def test_under_systemd_the_first_bug_ends_the_daemon_and_one_soon_after_does_not(tmp_path: Path) -> None:
    clock = StandingClock()

    async def main() -> None:
        first = bugs(tmp_path, clock, UNIT)
        first.note("a part", TemporaryError("no answer"))
        assert not first.fatal, "an error that is expected somewhere is no bug"
        first.note("the cycle", OverflowError("too large"))
        assert first.fatal
        clock.seconds += AGAIN_SECONDS - 1
        second = bugs(tmp_path, clock, UNIT)
        assert "the cycle failed 1 time" in second.conditions()[0].message, "it tells what the first ended by"
        second.note("the cycle", OverflowError("too large"))
        assert not second.fatal
        clock.seconds += 1
        third = bugs(tmp_path, clock, UNIT)
        assert third.conditions() == ()
        third.note("the cycle", OverflowError("too large"))
        assert third.fatal
        third.forget()
        assert bugs(tmp_path, clock, UNIT).conditions() == (), "a daemon that ends well leaves no word of a bug"

    run(main)


@pytest.mark.parametrize("left", ["", "[]", '{"what": 1, "line": "x", "when": 1}', '{"what": "a", "line": "x", "when": 1e999}'])
def test_a_broken_record_of_a_bug_is_none(tmp_path: Path, left: str) -> None:
    (tmp_path / "bug.json").write_text(left)
    assert bugs(tmp_path, StandingClock(), UNIT).conditions() == ()


def test_a_step_that_fails_as_expected_is_shown_until_it_goes_well(tmp_path: Path) -> None:
    async def full() -> bool:
        raise UnavailableError("status.json cannot be written: No space left on device")

    async def well() -> bool:
        return True

    async def main() -> None:
        found = bugs(tmp_path, StandingClock(), UNIT)
        assert not await found.attempt("the status", full())
        (condition,) = found.conditions()
        assert condition.problem is problems.STEP_FAILED and "No space left" in condition.message
        assert not found.fatal
        assert await found.attempt("the status", well())
        assert found.conditions() == ()

    run(main)


@pytest.mark.parametrize(
    ("result", "status", "job", "expected"),
    [
        ("exit-code", "70", "", True),  # a bug
        ("exit-code", "78", "", True),  # a wrong configuration
        ("signal", "KILL", "", True),
        ("watchdog", "ABRT", "", True),
        ("oom-kill", "KILL", "", True),
        ("success", "0", "restart", True),
        ("exit-code", "70", "restart", True),
        ("success", "0", "", False),  # somebody sent SIGTERM
        ("success", "0", "stop", False),
        ("exit-code", "70", "stop", False),  # an operator's stop that met a bug
        ("timeout", "KILL", "stop", False),
    ],
)
def test_what_a_member_has_stays_but_for_an_operators_stop(result: str, status: str, job: str, expected: bool) -> None:
    assert stays({"SERVICE_RESULT": result, "EXIT_STATUS": status}, job) is expected


def test_a_bug_that_another_thread_comes_upon_is_told_in_the_loop() -> None:
    """A task that nobody awaited is collected wherever memory is."""
    threads: list[threading.Thread] = []
    error = OSError("nobody awaited it")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()

        def tell(*_: object) -> None:
            threads.append(threading.current_thread())
            told.set()

        tasks.on_bug(tell)
        await asyncio.to_thread(loop.call_exception_handler, {"message": "never retrieved", "exception": error})
        await told.wait()

    asyncio.run(main())
    assert threads == [threading.main_thread()]


@pytest.mark.parametrize("cut_off_by", ["its time", "the end of its caller"])
def test_what_work_ends_by_after_it_was_cut_off_is_no_bug(cut_off_by: str) -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("as httpx does, while it connects") from None

    async def main() -> None:
        seconds = 0.01 if cut_off_by == "its time" else None
        caller = asyncio.get_running_loop().create_task(tasks.within(seconds, work()))
        await began.wait()
        if seconds is None:
            caller.cancel()
        await asyncio.wait({caller})
        assert caller.cancelled() if seconds is None else caller.result() is None
        del caller
        gc.collect()
        await settle()

    assert run(main) == []
