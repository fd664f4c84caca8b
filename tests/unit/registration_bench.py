"""A keeper of the registration, and a controller that answers as the test says; time is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from harness.errors import HarnessError
from harness.messages import Reason, Registration, RegistrationRequest, StateReport
from harness.reconcilers.registration import RegistrationKeeper
from harness.reconcilers.registration_actions import Observed
from harness.specs import Readiness, RegistrationSpec, Target
from harness.system.workload_api import Svid
from harness.values import HostPort
from tests import builders

TARGET = Target(HostPort("10.9.0.1", 8081), "controller", "")
READY = Readiness(True, Reason.READY)


class TestClock:
    __test__ = False

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time

    def boot(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class ScriptedController:
    """`fail`: what the next calls raise, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.reports: list[StateReport] = []
        self.requests: list[RegistrationRequest] = []
        self.hangs = False
        self.fail: list[HarnessError] = []
        self.news: asyncio.Queue[Registration | HarnessError] = asyncio.Queue()
        self.secret: str | None = "s3cret"
        self.lease = 30.0
        self.after: list[str] = []

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.fail:
            raise self.fail.pop(0)

    async def register(self, target: Target, svid: Svid, request: RegistrationRequest) -> Registration:
        self.requests.append(request)
        if self.hangs:
            await asyncio.Event().wait()
        self._answer(f"register {request.secret}" + (f" invited by {request.invitation}" if request.invitation else ""))
        return builders.registration(secret=self.secret, lease_seconds=self.lease)

    async def watch(self, target: Target, svid: Svid, known: Registration, secret: str) -> Registration:
        self.after.append(known.version)
        self._answer(f"watch {secret}")
        told = await self.news.get()
        if isinstance(told, HarnessError):
            raise told
        return told

    async def report(self, target: Target, svid: Svid, known: Registration, secret: str, report: StateReport) -> None:
        self._answer(f"report {report.reason.value}")
        self.reports.append(report)

    async def leave(self, target: Target, svid: Svid, known: Registration, secret: str) -> None:
        self._answer("leave")


def spec(readiness: Readiness = READY) -> RegistrationSpec:
    request = RegistrationRequest("face", "faces", "instance", "face-1", builders.machine().addresses)
    return RegistrationSpec(TARGET, request, builders.svid(), readiness)


class Bench:
    def __init__(self, state: Path) -> None:
        self.controller, self.clock, self.woken = ScriptedController(), TestClock(), list[str]()
        self.keeper = RegistrationKeeper(
            self.controller, state, self.clock, self.woken.append, state.with_name("invitation"), boot_id="boot-id"
        )

    async def cycle(self, want: RegistrationSpec | None, times: int = 6) -> Observed:
        for _ in range(times):
            for action in self.keeper.diff(want, await self.keeper.observe()):
                await self.keeper.apply(action)
            await asyncio.sleep(0.001)
            if (call := self.keeper._call) is not None and not self.controller.hangs:
                await asyncio.wait([call], timeout=1.0)  # it waits for the disk, in a thread
        return await self.keeper.observe()


def run(tmp_path: Path, body: Callable[[Bench], object]) -> None:
    async def main() -> None:
        bench = Bench(tmp_path / "registration.json")
        await body(bench)  # type: ignore[misc]
        bench.controller.fail.clear()
        await bench.cycle(None)

    asyncio.run(main())
