"""The keeper of the registration, against a controller that answers as the test says; time is the test's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from controller import admission
from harness.errors import TemporaryError
from harness.messages import ErrorBody, Reason
from harness.reconcilers import registration
from harness.specs import Readiness
from harness.status import Truth
from harness.system.control_plane import RefusedError, UntrustedError
from harness.values import parse_address
from tests import builders
from tests.unit.registration_bench import READY, Bench, run, spec


def test_it_registers_follows_and_reports_once(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        seen = await bench.cycle(spec())
        assert sorted(call.split()[0] for call in bench.controller.calls) == ["register", "report", "watch"]
        assert seen.reported == READY
        assert bench.keeper.condition(spec(), seen).truth is Truth.TRUE
        state = tmp_path / "registration.json"
        assert json.loads(state.read_text())["secret"] == "s3cret"
        assert state.stat().st_mode & 0o777 == 0o600
        await bench.cycle(None)
        assert bench.controller.calls[-1] == "leave"
        assert not state.exists()

    run(tmp_path, body)


def test_a_kept_name_that_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    """A machine that takes a new secret loses its name, and a copy that it is one."""
    state = tmp_path / "registration.json"
    state.symlink_to(state)

    async def body(bench: Bench) -> None:
        seen = await bench.cycle(spec())
        condition = bench.keeper.condition(spec(), seen)
        assert condition.problem is not None and condition.problem.code == "state-unreadable"
        assert state.is_symlink() and bench.controller.requests == []
        state.unlink()
        state.write_text('{"name": "face-1", "secret": "kept", "copy": "12ab"}')
        bench.clock.time += 60
        await bench.cycle(spec())
        (request,) = bench.controller.requests
        assert request.secret == "kept" and request.instance_id.endswith("-12ab")

    run(tmp_path, body)


def test_a_new_address_does_not_wait_for_what_failed_from_the_old_one(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        bench.controller.fail = [TemporaryError("no answer")]
        seen = await bench.cycle(spec())
        assert seen.error is not None and not bench.keeper.diff(spec(), seen), "it waits"
        moved = replace(spec(), request=replace(spec().request, addresses=(parse_address("192.0.2.99"),)))
        bench.controller.fail = [TemporaryError("no answer")]
        seen = await bench.cycle(moved)
        assert [request.addresses for request in bench.controller.requests][1:] == [moved.request.addresses], "once"
        assert not bench.keeper.diff(moved, seen), "and then it waits again"

    run(tmp_path, body)


def test_a_call_from_an_address_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        bench.controller.hangs = True
        seen = await bench.cycle(spec())
        assert seen.busy
        bench.controller.hangs = False
        elsewhere = (parse_address("192.0.2.99"),)
        moved = replace(spec(), request=replace(spec().request, addresses=elsewhere))
        seen = await bench.cycle(moved)
        assert seen.registration is not None and seen.request == moved.request

    run(tmp_path, body)


def test_an_invitation_is_shown_where_there_is_no_secret_that_counts(tmp_path: Path) -> None:
    (tmp_path / "invitation").write_text("t0ken\n")
    (tmp_path / "registration.json").write_text('{"name": "forgotten", "secret": "of it"}')

    async def body(bench: Bench) -> None:
        bench.controller.fail = [RefusedError(ErrorBody("invitation-invalid", "by invitation only"))]
        await bench.cycle(spec())
        bench.clock.time += 1
        await bench.cycle(spec())
        first, second = bench.controller.calls[:2]
        assert first == "register of it"
        assert second.endswith(" invited by t0ken") and " of it " not in second

    run(tmp_path, body)


def test_a_lost_first_answer_costs_nothing(tmp_path: Path) -> None:
    """The secret is ours and kept before the call: also whoever starts after a crash has the name again, and is invited."""
    state = tmp_path / "registration.json"
    (tmp_path / "invitation").write_text("t0ken\n")

    async def body(bench: Bench) -> None:
        bench.controller.secret = None
        bench.controller.fail = [TemporaryError("the answer is lost")]
        seen = await bench.cycle(spec())
        kept = json.loads(state.read_text())["secret"]
        assert admission.new_secret(kept) == kept, "the controller takes it"
        assert state.stat().st_mode & 0o777 == 0o600
        after = Bench(state)
        assert (await after.cycle(spec())).registration is not None
        bench.clock.time = seen.retry_at
        assert (await bench.cycle(spec())).registration is not None
        registers = [call for b in (bench, after) for call in b.controller.calls if call.startswith("register")]
        assert registers == [f"register {kept} invited by t0ken"] * 3
        await after.cycle(None)

    run(tmp_path, body)


def test_the_kept_secret_reclaims_the_name(tmp_path: Path) -> None:
    (tmp_path / "registration.json").write_text('{"secret": "kept"}')

    async def body(bench: Bench) -> None:
        await bench.cycle(spec())
        assert "register kept" in bench.controller.calls

    run(tmp_path, body)


def test_an_unreachable_controller_is_tried_again_with_a_growing_pause(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        bench.controller.fail = [TemporaryError("away") for _ in range(3)]
        pauses = []
        for _ in range(3):
            seen = await bench.cycle(spec())
            condition = bench.keeper.condition(spec(), seen)
            assert (condition.truth, condition.problem and condition.problem.code) == (Truth.FALSE, "controller-unreachable")
            pauses.append(seen.retry_at - bench.clock.time)
            bench.clock.time = seen.retry_at
        assert len(set(bench.controller.calls)) == 1 and len(bench.controller.calls) == 3, "never before the pause has passed"
        assert pauses[0] < pauses[1] < pauses[2]
        seen = await bench.cycle(spec())
        assert seen.error is None
        assert seen.registration is not None

    run(tmp_path, body)


def test_once_registered_a_lost_controller_changes_nothing_but_the_condition(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.cycle(spec())
        bench.controller.fail = [TemporaryError("away")] * 3
        await bench.controller.news.put(builders.registration(version="1"))
        seen = await bench.cycle(spec(Readiness(False, Reason.PROBE_FAILED)))
        assert seen.registration is not None
        condition = bench.keeper.condition(spec(), seen)
        assert (condition.truth, condition.problem and condition.problem.code) == (Truth.TRUE, "controller-unreachable")

    run(tmp_path, body)


@pytest.mark.parametrize(("lease", "longest"), [(6.0, 2.0), (600.0, registration.BACKOFF.most)])
def test_however_long_the_controller_is_away_it_is_tried_within_a_lease(tmp_path: Path, lease: float, longest: float) -> None:
    """One that is back takes whoever is silent for a lease for lost."""

    async def body(bench: Bench) -> None:
        bench.controller.lease = lease
        await bench.cycle(spec())
        bench.controller.fail = [TemporaryError("away")] * 40
        await bench.controller.news.put(builders.registration(version="1", lease_seconds=lease))
        pauses = []
        for _ in range(12):
            seen = await bench.cycle(spec())
            pauses.append(seen.retry_at - bench.clock.time)
            bench.clock.time = seen.retry_at
        assert longest * (1 - registration.BACKOFF.spread) <= max(pauses) <= longest

    run(tmp_path, body)


def test_what_is_not_decided_is_not_told(tmp_path: Path) -> None:
    """The daemon before this one may have said ready, and that stays until there is something else to say."""

    async def body(bench: Bench) -> None:
        waiting = Readiness(False, Reason.PROBE_FAILED, "not checked yet", decided=False)
        assert (await bench.cycle(spec(waiting))).registration is not None
        assert bench.controller.reports == []
        await bench.cycle(spec())
        await bench.cycle(spec(waiting))
        assert [r.reason for r in bench.controller.reports] == [Reason.READY]

    run(tmp_path, body)


def test_after_a_lost_connection_the_state_is_told_again(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.cycle(spec())
        bench.controller.fail = [TemporaryError("reset")]
        await bench.controller.news.put(builders.registration(version="1"))
        seen = await bench.cycle(spec())
        bench.clock.time = seen.retry_at + 1
        await bench.cycle(spec())
        assert [r.reason for r in bench.controller.reports] == [Reason.READY, Reason.READY]
        first, second = (r.sequence for r in bench.controller.reports)
        assert second > first

    run(tmp_path, body)


def test_a_registration_that_is_gone_is_made_anew(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.cycle(spec())
        bench.controller.fail = [RefusedError(ErrorBody("not-registered", "expired"))]
        await bench.controller.news.put(builders.registration(version="1"))
        seen = await bench.cycle(spec())
        assert seen.registration is None
        bench.clock.time = seen.retry_at + 1
        assert (await bench.cycle(spec())).registration is not None
        assert "register s3cret" in bench.controller.calls

    run(tmp_path, body)


def test_a_refusal_and_an_impostor_have_their_own_problems(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        for error, code in (
            (RefusedError(ErrorBody("identity-not-allowed", "face may not")), "registration-refused"),
            (UntrustedError("not the controller"), "controller-untrusted"),
        ):
            bench.controller.fail = [error]
            seen = await bench.cycle(spec())
            condition = bench.keeper.condition(spec(), seen)
            assert condition.problem is not None
            assert condition.problem.code == code
            assert error.message in condition.message
            bench.clock.time = seen.retry_at + 1

    run(tmp_path, body)


def test_news_of_the_controller_wake_the_cycle(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.cycle(spec())
        await bench.controller.news.put(replace(builders.registration(), version="2"))
        seen = await bench.cycle(spec())
        assert seen.registration is not None
        assert seen.registration.version == "2"
        assert "the controller has news" in bench.woken

    run(tmp_path, body)
