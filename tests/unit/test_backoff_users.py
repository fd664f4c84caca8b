"""Ten thousand failures in a row of each that backs off: none of them ends, and none of them waits for longer than it may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller import following, linkerd_identity
from controller.model import Lease
from controller.store import Change, Listing
from demo.proxy import discovery, identity
from harness import supervisor
from harness.backoff import Backoff
from harness.errors import TemporaryError
from harness.reconcilers import registration, spire
from harness.supervisor import ChildState, Event, State, advance
from harness.system import workload_api_child
from tests import builders
from tests.controller_support import settle
from tests.unit.registration_bench import Bench, TestClock, run, spec

FAILURES = 10_000
USERS = {
    "registration": registration.BACKOFF,
    "children": supervisor.BACKOFF,
    "SPIRE's entry": spire.ENTRY_BACKOFF,
    "the identity's stream": workload_api_child._BACKOFF,
    "the stand-in's identity": identity.BACKOFF,
    "the stand-in's discovery": discovery._BACKOFF,
    "the controller's mirrors": following.BACKOFF,
    "the controller's certificate": linkerd_identity._BACKOFF,
}


@pytest.mark.parametrize("backoff", USERS.values(), ids=USERS)
def test_each_waits_for_its_longest_pause_and_no_longer(backoff: Backoff) -> None:
    pauses = [backoff.pause(failures) for failures in range(1, FAILURES + 1)]
    assert pauses == sorted(pauses)
    assert pauses[0] == backoff.first and pauses[-1] == backoff.most <= 15.0


def test_a_member_stays_one_while_the_controller_is_away(tmp_path: Path) -> None:
    """For days: every pause stays within a third of the lease, and in the end all is as before."""

    async def body(bench: Bench) -> None:
        await bench.cycle(spec())
        bench.controller.fail += [TemporaryError("away")] * 10 * FAILURES
        await bench.controller.news.put(builders.registration(version="1"))
        for _ in range(FAILURES):
            for action in bench.keeper.diff(spec(), await bench.keeper.observe()):
                await bench.keeper.apply(action)
            await settle(4)
            seen = await bench.keeper.observe()
            assert seen.registration is not None, "what the controller last told stays"
            assert seen.error is not None
            assert 0 < seen.retry_at - bench.clock.time <= 10.0
            bench.clock.time = seen.retry_at
        bench.controller.fail.clear()
        assert (await bench.cycle(spec())).error is None, "it is a member as before"
        assert "leave" not in bench.controller.calls

    run(tmp_path, body)


@pytest.mark.parametrize("event", [Event.EXITED, Event.FAILED])
def test_a_child_is_started_again_however_often_it_fails(event: Event) -> None:
    child, now = ChildState(), 0.0
    for _ in range(FAILURES):
        child = advance(advance(child, Event.START, now), event, now, 1)
        assert child.state is State.BACKOFF
        assert 0 < child.retry_at - now <= supervisor.BACKOFF.most
        now = child.retry_at


class FailingStore:
    """Fails so often, then answers."""

    def __init__(self) -> None:
        self.failures = 0

    async def list(self) -> Listing[Lease]:
        if self.failures == FAILURES:
            return Listing((), "1")
        self.failures += 1
        raise TemporaryError("away")

    async def watch(self, resource_version: str) -> AsyncIterator[Change[Lease]]:
        await asyncio.Event().wait()
        yield  # type: ignore[misc]


def test_a_mirror_of_the_store_comes_back() -> None:
    async def main() -> None:
        known = asyncio.Event()

        async def replace(listing: Listing[Lease]) -> None:
            known.set()

        async def apply(change: Change[Lease]) -> None:
            raise AssertionError(change)

        following_it = asyncio.create_task(following.follow(FailingStore(), TestClock(), replace, apply))  # type: ignore[arg-type]
        await known.wait()
        following_it.cancel()

    asyncio.run(main())
