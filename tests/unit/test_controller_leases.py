"""Leases as time passes, in numbers only."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from controller.leases import HOLD_SECONDS, Findings, Leases
from controller.model import Key

STEP = 0.25


def key(number: int) -> Key:
    return Key("faces", f"face-{number}")


class Timeline:
    """Sweeps as often as the controller does; `alive` report every ten seconds, spread over that time."""

    def __init__(self, count: int) -> None:
        self.now, self.leases = 0.0, Leases(0.0)
        self.alive = {key(n): 10.0 * n / count for n in range(count)}
        self.marked: dict[Key, float] = {}
        self.expired: dict[Key, float] = {}
        self.doubted: dict[Key, float] = {}
        for name in self.alive:
            self.leases.renew(name, 30, 900, 0.0)

    def run(self, seconds: float, *, dial: bool | None = None) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            for name, offset in self.alive.items():
                if (self.now - offset) % 10 < STEP:
                    self.leases.renew(name, 30, 900, self.now)
            self.note(self.leases.sweep(self.now), dial)

    def note(self, findings: Findings, dial: bool | None) -> None:
        for name in findings.silent:
            self.marked[name] = self.now
        for name in findings.doubtful:
            self.doubted.setdefault(name, self.now)
            if dial is True:
                self.leases.vouch(name, self.now)
            elif dial is False:
                self.leases.give_up(name)
                self.marked[name] = self.now
        for name in findings.expired:
            self.expired[name] = self.now
            self.leases.drop(name)

    def kill(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            del self.alive[key(number)]


def test_one_silent_machine_is_marked_when_its_lease_ends_and_deleted_later() -> None:
    timeline = Timeline(3)
    timeline.run(20)
    last = timeline.now
    timeline.kill([0])
    timeline.run(29 + 10)
    assert set(timeline.marked) == {key(0)}
    assert last + 20 <= timeline.marked[key(0)] <= last + 31
    assert timeline.leases.unreachable_for(key(0), timeline.now) is not None
    timeline.run(900)
    assert set(timeline.expired) == {key(0)} and timeline.expired[key(0)] - timeline.marked[key(0)] >= 865
    assert set(timeline.marked) == {key(0)}


def test_a_report_ends_the_silence() -> None:
    timeline = Timeline(1)
    timeline.kill([0])
    timeline.run(40)
    assert key(0) in timeline.marked
    timeline.leases.renew(key(0), 30, 900, timeline.now)
    assert timeline.leases.unreachable_for(key(0), timeline.now) is None


def test_a_small_fleet_has_no_guard() -> None:
    timeline = Timeline(9)
    timeline.run(20)
    timeline.kill(range(9))
    timeline.run(45)
    assert len(timeline.marked) == 9


def test_half_of_a_fleet_may_fail_on_its_own() -> None:
    timeline = Timeline(20)
    timeline.run(20)
    timeline.kill(range(10))
    timeline.run(45)
    assert len(timeline.marked) == 10 and not timeline.doubted


def test_a_partition_marks_nobody_and_asks_after_two_minutes() -> None:
    timeline = Timeline(40)
    timeline.run(20)
    cut, alive = timeline.now, dict(timeline.alive)
    timeline.kill(range(40))
    timeline.run(100)
    assert not timeline.marked and not timeline.doubted
    timeline.run(60, dial=True)
    assert not timeline.marked and len(timeline.doubted) == 40
    assert all(cut + 120 <= when <= cut + 10 + 30 + HOLD_SECONDS for when in timeline.doubted.values())
    timeline.alive = alive
    timeline.run(60)
    assert not timeline.marked and not timeline.expired


def test_a_partition_that_heals_in_time_is_never_noticed() -> None:
    timeline = Timeline(40)
    timeline.run(20)
    alive = dict(timeline.alive)
    timeline.kill(range(40))
    timeline.run(100)
    timeline.alive = alive
    timeline.run(200)
    assert not timeline.marked and not timeline.doubted


def test_a_fleet_that_is_really_gone_is_marked_once_nobody_answers() -> None:
    timeline = Timeline(40)
    timeline.run(20)
    timeline.kill(range(40))
    timeline.run(20 + 30 + HOLD_SECONDS, dial=False)
    assert len(timeline.marked) == 40


def test_vouched_machines_are_asked_again_each_lease() -> None:
    timeline = Timeline(10)
    timeline.kill(range(10))
    timeline.run(200, dial=True)
    timeline.doubted.clear()
    timeline.run(31, dial=True)
    assert len(timeline.doubted) == 10 and not timeline.marked


def test_after_a_start_a_fleet_is_presumed_alive_for_two_minutes() -> None:
    leases = Leases(0.0)
    for number in range(20):
        leases.adopt(key(number), 30, 900, 0.0, unreachable=False)
    timeline = Timeline(20)
    timeline.leases = leases
    timeline.kill([0])  # all others report, so nothing looks like a mass
    timeline.run(HOLD_SECONDS - 1, dial=False)
    assert not timeline.marked and not timeline.doubted
    timeline.run(3, dial=False)
    assert set(timeline.marked) == {key(0)}


def test_after_a_start_a_small_fleet_has_one_lease() -> None:
    leases = Leases(0.0)
    leases.adopt(key(0), 30, 900, 0.0, unreachable=False)
    assert leases.sweep(10.0) == Findings()
    for now in range(11, 60):
        if leases.sweep(float(now)).silent:
            assert 30 <= now <= 46
            return
    raise AssertionError("never marked")


def test_what_was_unreachable_before_a_start_stays_so_and_expires() -> None:
    leases = Leases(0.0)
    leases.adopt(key(0), 30, 100, 0.0, unreachable=True)
    expired = [float(now) for now in range(1, 200) if leases.sweep(float(now)).expired]
    assert expired and expired[0] == 100.0


def test_a_pause_of_the_controller_counts_against_nobody() -> None:
    timeline = Timeline(5)
    timeline.run(20)
    timeline.now += 300
    timeline.note(timeline.leases.sweep(timeline.now), None)
    timeline.run(40)
    assert not timeline.marked


@given(st.integers(1, 60), st.data())
def test_a_machine_that_reports_is_never_marked(count: int, data: st.DataObject) -> None:
    timeline = Timeline(count)
    timeline.run(12)
    dead = data.draw(st.sets(st.integers(0, count - 1)))
    timeline.kill(dead)
    timeline.run(60, dial=False)
    assert not {name for name in timeline.marked if name in timeline.alive}
    assert not {name for name in timeline.doubted if name in timeline.alive}
