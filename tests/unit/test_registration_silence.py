"""What the keeper of the registration says and does when the controller is silent."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import HarnessError, InternalError, TemporaryError, UnwritableError
from harness.messages import ErrorBody
from harness.reconcilers.lease import Silence
from harness.status import Truth
from harness.system.control_plane import RefusedError, UntrustedError
from tests import builders
from tests.unit.registration_bench import Bench, run, spec


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, "lease-lapsed"),
        (TemporaryError("no answer"), "lease-lapsed"),
        (RefusedError(ErrorBody("identity-not-allowed", "face may not")), "registration-refused"),
        (UntrustedError("not the controller"), "controller-untrusted"),
        (UnwritableError(Path("/s/registration.json"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), "disk-full"),
        (InternalError("a bug"), "internal-error"),
    ],
)
def test_after_a_lease_of_silence_it_does_not_say_registered(tmp_path: Path, error: HarnessError | None, code: str) -> None:
    async def body(bench: Bench) -> None:
        seen = replace(await bench.cycle(spec()), error=error)
        assert bench.keeper.condition(spec(), replace(seen, silence=Silence(29.9, 30.0))).truth is Truth.TRUE
        condition = bench.keeper.condition(spec(), replace(seen, silence=Silence(34.2, 30.0)))
        assert condition.problem is not None and condition.problem.code == code
        if code == "lease-lapsed":
            assert condition.truth is Truth.UNKNOWN
            assert condition.message.startswith("no answer for 34 s (lease 30 s): peers may have stopped sending")
            assert error is None or error.message in condition.message

    run(tmp_path, body)


def test_after_a_failure_the_first_held_call_is_answered_at_once(tmp_path: Path) -> None:
    """A whole hold is a third of the lease, of which a connection that carries nothing has cost two already."""

    async def body(bench: Bench) -> None:
        await bench.cycle(spec())
        bench.controller.fail = [TemporaryError("overdue")]
        await bench.controller.news.put(builders.registration(version="1"))
        seen = await bench.cycle(spec())
        bench.clock.time = seen.retry_at
        await bench.cycle(spec())
        await bench.controller.news.put(builders.registration(version="1"))
        await bench.cycle(spec())
        known = builders.registration().version
        assert bench.controller.after == [known, "1", "", "1"]

    run(tmp_path, body)
