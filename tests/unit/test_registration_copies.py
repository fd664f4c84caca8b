"""A machine whose name is another's, too: what it shows, and what it does when the controller says so."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

from harness import problems
from harness.messages import ErrorBody, Registration, RegistrationRequest
from harness.reconcilers.registration import BACKOFF
from harness.specs import RegistrationSpec, Target
from harness.status import Truth
from harness.system.control_plane import RefusedError
from harness.system.workload_api import Svid
from harness.values import parse_address
from tests import builders
from tests.unit.registration_bench import READY, Bench, ScriptedController, run, spec


def test_whose_call_it_is_is_shown_by_a_new_mark_each_time(tmp_path: Path) -> None:
    """The controller tells by it whether two machines have the same secret."""

    async def body(bench: Bench) -> None:
        bench.controller.news.put_nowait(builders.registration(version="2"))
        seen = await bench.cycle(spec())
        assert seen.registration is not None
        bench.controller.fail = [RefusedError(ErrorBody("overtaken", "another call has registered since"))]
        await bench.cycle(spec(replace(READY, ready=False)))
        bench.clock.time += 1
        seen = await bench.cycle(spec())
        assert seen.registration is not None and seen.error is None
        first, second = bench.controller.requests
        assert first.holder.startswith("boot-id.") and first.before == ""
        assert second.holder.startswith("boot-id.") and second.before == first.holder
        assert first.instance_id == second.instance_id and second.secret == "s3cret"

    run(tmp_path, body)


def test_the_marks_of_one_boot_have_an_order(tmp_path: Path) -> None:
    """Also when two are made at the same moment, and when the daemon was restarted."""
    marks = list[str]()

    async def body(bench: Bench) -> None:
        bench.clock.time += len(marks)
        await bench.cycle(spec())
        await bench.cycle(other_spec())
        marks.extend(request.holder for request in bench.controller.requests)

    run(tmp_path, body)
    run(tmp_path, body)
    numbers = [int(mark.split(".")[1]) for mark in marks]
    assert len(numbers) == 4 and numbers == sorted(set(numbers))


def other_spec() -> RegistrationSpec:
    """At the same address."""
    return replace(spec(), request=replace(spec().request, versions={"harness": "9.9.9"}))


def test_a_registration_ends_the_held_call_that_it_overtakes(tmp_path: Path) -> None:
    """That shows the mark of before: the controller would take it for another machine's."""

    async def body(bench: Bench) -> None:
        await bench.cycle(spec())
        seen = await bench.cycle(other_spec())
        assert [call.split()[0] for call in bench.controller.calls] == [
            "register",
            "watch",
            "report",
            "register",
            "watch",
            "report",
        ]
        assert seen.watching and seen.error is None

    run(tmp_path, body)


def test_a_held_call_that_is_overtaken_by_this_machine_itself_is_no_failure(tmp_path: Path) -> None:
    """Its answer may come before that of the registration."""

    async def body(bench: Bench) -> None:
        await bench.cycle(spec())
        bench.controller.hangs = True
        assert (await bench.cycle(other_spec())).busy
        bench.controller.news.put_nowait(RefusedError(ErrorBody("overtaken", "another call has registered since")))
        seen = await bench.cycle(other_spec())
        assert (seen.busy, seen.error, len(bench.controller.requests)) == (True, None, 2)

    run(tmp_path, body)


class SlowToEnd(ScriptedController):
    """Its registration takes a while to end when it is cancelled, as a connection does that is closed first."""

    async def register(self, target: Target, svid: Svid, request: RegistrationRequest) -> Registration:
        try:
            return await super().register(target, svid, request)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            raise


def test_so_it_is_when_an_earlier_registration_ends_meanwhile(tmp_path: Path) -> None:
    """The machine's address has changed while it registered."""

    async def body(bench: Bench) -> None:
        bench.keeper._controller = bench.controller = SlowToEnd()
        await bench.cycle(spec())
        bench.controller.hangs = True
        await bench.cycle(other_spec())
        moved = replace(other_spec(), request=replace(other_spec().request, addresses=(parse_address("192.0.2.99"),)))
        await bench.cycle(moved)
        await asyncio.sleep(0.05)
        bench.controller.news.put_nowait(RefusedError(ErrorBody("overtaken", "another call has registered since")))
        seen = await bench.cycle(moved)
        assert (seen.busy, seen.error, len(bench.controller.requests)) == (True, None, 3)

    run(tmp_path, body)


def test_a_replica_that_keeps_saying_overtaken_is_not_asked_ever_more_often(tmp_path: Path) -> None:
    """It cannot read what another replica has answered: each registration succeeds, and the held call after it does not."""

    async def body(bench: Bench) -> None:
        overtaken = ErrorBody("overtaken", "another call has registered since")
        pauses = []
        seen = await bench.cycle(spec())
        for _ in range(5):
            bench.controller.news.put_nowait(RefusedError(overtaken))
            seen = await bench.cycle(spec())
            pauses.append(seen.retry_at - bench.clock.time)
            bench.clock.time = seen.retry_at
            assert (await bench.cycle(spec())).error is None
        assert len(bench.controller.requests) == 6
        assert pauses[-1] > 4 * pauses[0]
        bench.controller.news.put_nowait(builders.registration(version="2"))
        await bench.cycle(spec())
        bench.controller.news.put_nowait(RefusedError(overtaken))
        seen = await bench.cycle(spec())
        assert seen.retry_at - bench.clock.time <= BACKOFF.first, "a call was answered in between"

    run(tmp_path, body)


def test_a_copy_of_another_machine_takes_a_name_of_its_own(tmp_path: Path) -> None:
    state = tmp_path / "registration.json"
    state.write_text('{"name": "face-of-the-other", "secret": "of the other"}')

    async def body(bench: Bench) -> None:
        bench.controller.fail = [RefusedError(ErrorBody("copied", "face-1 at 192.0.2.1 holds it"))]
        await bench.cycle(spec())
        bench.clock.time += 1
        seen = await bench.cycle(spec())
        theirs, own = bench.controller.requests
        assert (theirs.instance_id, theirs.secret) == ("instance", "of the other")
        assert own.instance_id.startswith("instance-") and own.secret != "of the other" and own.before == ""
        condition = bench.keeper.condition(spec(), seen)
        assert (condition.truth, condition.problem) == (Truth.TRUE, problems.MACHINE_IS_COPY)
        assert "face-1 at 192.0.2.1 holds it" in condition.message
        kept = json.loads(state.read_text())
        assert own.instance_id == f"instance-{kept['copy']}"
        again = Bench(state)
        seen = await again.cycle(spec())
        assert again.controller.requests[0].instance_id == own.instance_id, "it keeps that name"
        assert again.keeper.condition(spec(), seen).problem == problems.MACHINE_IS_COPY, "and says so"
        again.keeper.release()

    run(tmp_path, body)


def test_where_a_copy_may_not_join_it_says_of_what_it_is_one(tmp_path: Path) -> None:
    """The group takes machines by invitation only."""
    (tmp_path / "registration.json").write_text('{"name": "face-of-the-other", "secret": "of the other"}')

    async def body(bench: Bench) -> None:
        bench.controller.fail = [RefusedError(ErrorBody("copied", "face-1 at 192.0.2.1 holds it"))]
        await bench.cycle(spec())
        bench.clock.time += 1
        bench.controller.fail = [RefusedError(ErrorBody("invitation-invalid", "it was used by another machine"))]
        seen = await bench.cycle(spec())
        condition = bench.keeper.condition(spec(), seen)
        assert condition.problem == problems.REGISTRATION_REFUSED
        assert "used by another machine" in condition.message and "face-1 at 192.0.2.1 holds it" in condition.message

    run(tmp_path, body)


def test_that_there_is_a_copy_of_this_machine_is_told_and_does_it_no_harm(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.cycle(spec())
        bench.controller.news.put_nowait(builders.registration(version="2", copied_by="192.0.2.9"))
        seen = await bench.cycle(spec())
        condition = bench.keeper.condition(spec(), seen)
        assert (condition.truth, condition.problem) == (Truth.TRUE, problems.MACHINE_COPIED)
        assert "192.0.2.9" in condition.message

    run(tmp_path, body)
