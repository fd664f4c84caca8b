from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.probe import Probe, TcpSocket
from harness.reconcilers.probes import Health, Observed, count
from harness.specs import ApplicationSpec, Check


def probe(failures: int = 3, successes: int = 1) -> Probe:
    return Probe(tcp_socket=TcpSocket(80, "127.0.0.1"), failure_threshold=failures, success_threshold=successes)


def follow(results: list[bool], spec: Probe) -> Health:
    health = Health()
    for passed in results:
        health = count(health, spec, None if passed else "refused")
    return health


def test_not_ready_until_it_has_passed() -> None:
    assert not Health().ready
    assert not follow([False], probe()).ready
    assert follow([True], probe()).ready
    assert not follow([True, True], probe(successes=3)).ready
    assert follow([True, True, True], probe(successes=3)).ready


def test_failures_must_come_in_a_row() -> None:
    assert follow([True, False, False], probe()).ready
    assert not follow([True, False, False, False], probe()).ready
    assert follow([True, False, False, True, False, False], probe()).ready
    assert not follow([True, False], probe(failures=1)).ready


@given(st.lists(st.booleans(), min_size=1), st.integers(1, 5), st.integers(1, 5))
def test_the_thresholds_are_kept(results: list[bool], failures: int, successes: int) -> None:
    health = follow(results, probe(failures, successes))
    if health.ready:
        assert any(all(results[i : i + successes]) for i in range(len(results) - successes + 1) if len(results) - i >= successes)
        assert results[-failures:] != [False] * failures
    if len(results) >= successes and all(results[-successes:]):
        assert health.ready


def test_a_group_without_probes_is_ready_and_a_failing_one_says_why() -> None:
    assert Observed().failing is None
    assert (
        Observed(ApplicationSpec((Check(probe()),)), (follow([False], probe()),)).failing
        == "TCP connection to 127.0.0.1:80: refused"
    )


def test_it_is_decided_when_all_have_passed_or_one_has_failed() -> None:
    """A daemon that is started anew must not call an application not ready that it has not asked yet."""

    def seen(*results: list[bool]) -> Observed:
        spec = probe(successes=2)
        return Observed(ApplicationSpec((Check(spec),) * len(results)), tuple(follow(r, spec) for r in results))

    assert not Observed().decided, "the group's probes are not known yet"
    assert Observed(ApplicationSpec()).decided
    assert not seen([]).decided and not seen([True]).decided and not seen([True, True], []).decided
    assert seen([True, True]).decided and seen([False]).decided
    assert seen([], [False]).decided and seen([], [False]).failing == "TCP connection to 127.0.0.1:80: refused"
    assert seen([True, True, False, False, False]).decided
