from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.supervisor import BACKOFF, STABLE_SECONDS, ChildState, Event, State, advance


def test_the_ordinary_life_of_a_child() -> None:
    child = ChildState()
    for event, state in ((Event.START, State.STARTING), (Event.READY, State.RUNNING), (Event.STOP, State.STOPPING)):
        child = advance(child, event, 1.0)
        assert child.state is state
    assert advance(child, Event.EXITED, 2.0, 0) == ChildState(State.STOPPED, 2.0, last_exit=0)


def test_the_backoff_doubles_and_a_stable_run_resets_it() -> None:
    child, now, delays = ChildState(), 0.0, []
    for _ in range(2000):  # more than a float's exponent has room for
        child = advance(advance(child, Event.START, now), Event.EXITED, now, 1)
        delays.append(child.retry_at - now)
        now = child.retry_at
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8][:4] or all(
        abs(a - b) < 1e-6 for a, b in zip(delays[:4], [0.1, 0.2, 0.4, 0.8], strict=True)
    )
    assert delays[-1] == BACKOFF.most
    assert child.crash_loop
    child = advance(advance(child, Event.START, now), Event.READY, now)
    assert child.crash_loop, "it may exit again"
    child = advance(child, Event.STABLE, now + STABLE_SECONDS)
    assert not child.crash_loop
    assert advance(child, Event.EXITED, now + STABLE_SECONDS, 1).exits == 1


def test_a_start_that_cannot_be_tried_is_no_exit() -> None:
    child, now, delays = ChildState(), 0.0, []
    for _ in range(4):
        child = advance(advance(child, Event.START, now), Event.FAILED, now)
        delays.append(round(child.retry_at - now, 6))
        now = child.retry_at
    assert delays == [0.1, 0.2, 0.4, 0.8]
    assert (child.state, child.exits, child.restarts, child.crash_loop) == (State.BACKOFF, 0, 0, False)
    child = advance(advance(child, Event.START, now), Event.READY, now)
    assert child.failures == 0
    child = advance(child, Event.EXITED, now + 1, 1)
    assert round(child.retry_at - now - 1, 6) == 0.1, "what could not be tried before does not count"


def test_a_short_run_does_not_reset_it() -> None:
    child = ChildState()
    for _ in range(3):
        child = advance(advance(advance(child, Event.START, 0.0), Event.READY, 0.0), Event.EXITED, 1.0, 0)
    assert child.crash_loop


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_no_order_of_events_breaks_the_table(events: list[Event]) -> None:
    child = ChildState()
    for now, event in enumerate(events):
        before, child = child, advance(child, event, float(now), 1)
        if event is Event.STOP:
            assert child.state in (State.STOPPING, State.STOPPED)
        if before.state is State.STOPPED and event is not Event.START:
            assert child == before
        assert child.retry_at <= now + BACKOFF.most
