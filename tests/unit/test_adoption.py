"""A daemon that begins takes over what there is once, also when its first try fails."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness.clock import SystemClock
from harness.daemon import adoption
from harness.daemon.compose import Part, Parts
from harness.daemon.head_start import Wakes
from harness.rules import Rules, rules_for
from harness.supervisor import State, Supervised
from harness.system import process
from tests.redirect_support import spec


def parts(
    child: Supervised[process.Child],
    processes: process.Processes,
    fails: list[Exception],
    rules: Rules = (),
    adopted: bool = False,
) -> Parts:
    """With a real child in the place of the proxy of an earlier daemon."""
    command = process.Command("sleeper", (sys.executable, "-c", "import time; time.sleep(60)"))

    async def adopt(port: int) -> bool:
        child.adopt(await processes.spawn(command))
        return adopted

    async def in_place() -> bool:
        for error in fails:
            raise error
        return True

    async def found() -> Rules:
        return rules

    async def nothing(_: object) -> None: ...

    async def changes() -> AsyncIterator[str]:
        yield "none"

    part = Part(None, lambda desired: None)  # type: ignore[arg-type]  # nothing asks it
    return Parts(
        routes=part,
        dns=part,
        identity=part,
        registration=part,
        probes=part,
        proxy=part,
        redirect=part,
        redirect_changes=changes,
        redirect_in_place=in_place,
        redirect_found=found,
        redirect_in_force=lambda: None,
        redirect_covers=tuple,
        watch_nodes=nothing,
        calls={},
        tell=nothing,
        adopt=adopt,
        stale=lambda spec: False,
        restart_proxy=lambda: None,
        release=(child.release,),
    )


def test_a_try_that_fails_leaves_no_watch_behind(tmp_path: Path) -> None:
    async def run() -> None:
        clock = SystemClock()
        processes = process.Processes(tmp_path, lambda name, line: None)
        child: Supervised[process.Child] = Supervised(processes, clock, Wakes())
        with pytest.raises(ValueError, match="injected"):
            await adoption.take_over(parts(child, processes, [ValueError("injected")]), 4191)
        assert child.child is None and child.state.state is State.STOPPED
        for orphan in process.orphans(tmp_path):
            await process.end(orphan, 1.0)
        assert await adoption.take_over(parts(child, processes, []), 4191) == (False, True)
        assert child.child is not None
        await child.stop(1.0)

    asyncio.run(run())


@pytest.mark.parametrize("hold", [False, True])
def test_a_hold_in_front_of_a_proxy_that_goes_on_is_not_taken_for_the_redirect(tmp_path: Path, hold: bool) -> None:
    """Such a machine refuses what it should send to the mesh: it must not report Ready."""

    async def run() -> None:
        processes = process.Processes(tmp_path, lambda name, line: None)
        child: Supervised[process.Child] = Supervised(processes, SystemClock(), Wakes())
        rules = rules_for(spec(hold=hold))
        found = await adoption.take_over(parts(child, processes, [], rules, adopted=True), 4191)
        await child.stop(1.0)
        assert found == (True, not hold)

    asyncio.run(run())
