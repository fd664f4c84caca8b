"""The controller's silence against the lease, with a clock that is the test's."""

from __future__ import annotations

import asyncio

import pytest

from harness.reconcilers.lease import LATE_SECONDS, Lease, Silence
from harness.system.control_plane import ANSWER_SECONDS, hold_seconds
from tests import builders
from tests.controller_support import StandingClock

SHORT = 0.05


def test_each_answer_renews_it_and_only_a_registration_has_one() -> None:
    async def body() -> None:
        clock, woken = StandingClock(), list[str]()
        lease = Lease(clock, woken.append)
        clock.seconds = 100.0
        lease.answered()
        assert lease.silence() is None
        lease.answered(builders.registration(lease_seconds=30.0))
        clock.seconds += 29.9
        silence = lease.silence()
        assert silence is not None and not silence.lapsed
        clock.seconds += 4.2
        silence = lease.silence()
        assert silence is not None and silence.lapsed
        assert str(silence) == "no answer for 34 s (lease 30 s): peers may have stopped sending"
        lease.answered()
        assert lease.silence() == Silence(0.0, 30.0)
        lease.left()
        assert lease.silence() is None

    asyncio.run(body())


def test_what_a_daemon_before_this_one_was_told_counts_from_the_start() -> None:
    async def body() -> None:
        clock = StandingClock()
        clock.seconds = 500.0
        lease = Lease(clock, lambda reason: None, builders.registration(lease_seconds=5.0))
        assert lease.silence() == Silence(0.0, 5.0)
        clock.seconds += 6
        assert lease.silence() == Silence(6.0, 5.0)

    asyncio.run(body())


def test_its_end_wakes_the_cycle_once_and_an_answer_puts_that_off() -> None:
    async def body() -> None:
        woken: list[str] = []
        lease = Lease(StandingClock(), woken.append)
        for _ in range(5):
            lease.answered(builders.registration(lease_seconds=SHORT))
            lease.answered()
        assert woken == []
        while not woken:
            await asyncio.sleep(SHORT)
        await asyncio.sleep(2 * (SHORT + LATE_SECONDS))
        assert woken == ["the lease has ended"]

    asyncio.run(body())


@pytest.mark.parametrize("lease", [1.0, 5.0, 30.0, 600.0])
def test_a_held_call_that_is_overdue_leaves_time_for_another(lease: float) -> None:
    registration = builders.registration(lease_seconds=lease, report_seconds=lease / 3)
    seconds = hold_seconds(registration)
    assert registration.report_seconds < seconds <= lease * 2 / 3 + 1e-9
    assert seconds - registration.report_seconds <= ANSWER_SECONDS
