"""The pauses after failures: bounds, growth and chance, for any number of failures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backoff import Backoff

SECONDS = st.floats(0.001, 86_400.0)
SHARES = st.floats(0.0, 0.99)
CHANCES = st.floats(0.0, 1.0)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    first = draw(SECONDS)
    return Backoff(first, first + draw(SECONDS), draw(SHARES))


@given(backoffs(), st.integers(0, 10**12), CHANCES)
def test_every_pause_is_within_its_bounds(backoff: Backoff, failures: int, chance: float) -> None:
    whole = backoff.pause(failures)
    assert backoff.first <= whole <= backoff.most
    assert whole * (1 - backoff.spread) <= backoff.pause(failures, chance) <= whole


@given(backoffs(), st.integers(0, 2000))
def test_a_further_failure_never_shortens_the_pause_and_at_most_doubles_it(backoff: Backoff, failures: int) -> None:
    assert backoff.pause(failures) <= backoff.pause(failures + 1) <= 2 * backoff.pause(failures)


@given(backoffs())
def test_ten_thousand_failures_wait_for_the_longest_pause(backoff: Backoff) -> None:
    assert backoff.pause(10_000) == backoff.most


def test_it_doubles_from_the_first() -> None:
    assert [Backoff(0.25, 15.0).pause(failures) for failures in range(1, 9)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


@given(backoffs(), SECONDS, st.integers(1, 10_000))
def test_a_shorter_longest_pause_holds(backoff: Backoff, most: float, failures: int) -> None:
    assert backoff.within(most).pause(failures) == min(backoff.pause(failures), most)


@pytest.mark.parametrize(
    ("first", "most", "spread"), [(0.0, 1.0, 0.0), (2.0, 1.0, 0.0), (1.0, float("inf"), 0.0), (1.0, 2.0, 1.0), (1.0, 2.0, -0.1)]
)
def test_what_is_no_backoff_is_refused(first: float, most: float, spread: float) -> None:
    with pytest.raises(ValueError, match="no backoff"):
        Backoff(first, most, spread)
