"""The calls to the controller, counted: how many, how they ended, and how long they took. Each answer renews the lease."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.backoff import Backoff
from harness.clock import Clock
from harness.errors import HarnessError
from harness.messages import Registration, RegistrationRequest, StateReport
from harness.reconcilers.lease import Lease
from harness.reconcilers.registration import Controller
from harness.specs import Target
from harness.system.workload_api import Svid

T = TypeVar("T")
PACE = Backoff(first=0.1, most=1.0)
AT_ONCE_SECONDS = 0.5
"""A held call that is answered sooner was not held. An answer at once takes some of it on a busy machine or a slow network."""
AT_ONCE_MOST = 10
"""After more answers at once than there would be news, each next call waits: neither side is to be busy with nothing."""


@dataclass(slots=True)
class Calls:
    """Of one kind. `seconds`: of those that were answered, all together. `answered_at`: epoch seconds of the last, 0 before."""

    answered: int = 0
    failed: int = 0
    seconds: float = 0.0
    answered_at: float = 0.0


@dataclass(slots=True)
class Counted:
    """Satisfies registration.Controller; `calls` by the names that the controller's own metrics have."""

    controller: Controller
    clock: Clock
    lease: Lease
    at_once: int = 0
    """Held calls in a row that were not held."""
    calls: dict[str, Calls] = field(default_factory=lambda: {name: Calls() for name in ("register", "hold", "state", "leave")})

    async def register(self, target: Target, svid: Svid, request: RegistrationRequest) -> Registration:
        answer = await self._count("register", self.controller.register(target, svid, request))
        self.lease.answered(answer)
        return answer

    async def watch(self, target: Target, svid: Svid, registration: Registration, secret: str) -> Registration:
        if self.at_once > AT_ONCE_MOST:
            await self.clock.sleep(PACE.pause(self.at_once - AT_ONCE_MOST))
        asked = self.clock.now()
        answer = await self._count("hold", self.controller.watch(target, svid, registration, secret))
        self.at_once = self.at_once + 1 if self.clock.now() - asked < AT_ONCE_SECONDS else 0
        self.lease.answered(answer)
        return answer

    async def report(self, target: Target, svid: Svid, registration: Registration, secret: str, report: StateReport) -> None:
        await self._count("state", self.controller.report(target, svid, registration, secret, report))
        self.lease.answered()

    async def leave(self, target: Target, svid: Svid, registration: Registration, secret: str) -> None:
        await self._count("leave", self.controller.leave(target, svid, registration, secret))
        self.lease.left()

    async def _count(self, name: str, call: Coroutine[Any, Any, T]) -> T:
        calls, began = self.calls[name], self.clock.now()
        try:
            answer = await call
        except HarnessError:
            calls.failed += 1
            raise
        calls.answered += 1
        calls.seconds += self.clock.now() - began
        calls.answered_at = self.clock.wall()
        return answer
