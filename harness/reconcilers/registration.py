"""This machine's registration with the controller: register, report state, follow changes, leave.

Each call runs in the background, one at a time, so that a slow controller never holds the cycle; its end wakes the cycle.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from harness import tasks
from harness.backoff import Backoff
from harness.clock import Clock
from harness.errors import HarnessError, UnwritableError
from harness.messages import Registration, RegistrationRequest, StateReport
from harness.reconcilers import registration_condition
from harness.reconcilers.kept_name import KeptName
from harness.reconcilers.lease import Silence
from harness.reconcilers.registration_actions import Access, Action, Follow, Leave, Observed, Register, Report, Use
from harness.specs import RegistrationSpec, Target
from harness.status import Condition
from harness.system import files
from harness.system.control_plane import RefusedError
from harness.system.workload_api import Svid
from harness.values import IPAddress

BACKOFF = Backoff(first=0.25, most=15.0, spread=0.4)
GONE = ("not-registered", "secret-mismatch", "copied")
OVERTAKEN = "overtaken"
"""The registration is still there, and the controller wants to know whose it is."""


class Controller(Protocol):
    async def register(self, target: Target, svid: Svid, request: RegistrationRequest) -> Registration: ...
    async def watch(self, target: Target, svid: Svid, registration: Registration, secret: str) -> Registration: ...
    async def report(self, target: Target, svid: Svid, registration: Registration, secret: str, report: StateReport) -> None: ...
    async def leave(self, target: Target, svid: Svid, registration: Registration, secret: str) -> None: ...


class RegistrationKeeper:
    name = "registration"

    def __init__(
        self,
        controller: Controller,
        state: Path,
        clock: Clock,
        wake: Callable[[str], None],
        invitation: Path | None = None,
        silence: Callable[[], Silence | None] = lambda: None,
        boot_id: str = "",
    ) -> None:
        self._controller, self._clock, self._wake = controller, clock, wake
        self._invitation = invitation
        self._silence = silence
        self._view = Observed()
        self._kept = KeptName(state)
        self._boot = boot_id
        self._holder = ""
        self._marked = 0
        self._calling_from: tuple[IPAddress, ...] = ()
        self._registering = 0
        self._sequence = 0
        self._failures = 0
        self._overtaken = 0
        self._call: asyncio.Task[None] | None = None
        self._follow: asyncio.Task[None] | None = None
        self._retry: asyncio.Task[None] | None = None

    async def observe(self) -> Observed:
        busy = self._call is not None and not self._call.done()
        watching = self._follow is not None and not self._follow.done()
        now, silence = self._clock.now(), self._silence()
        told = replace(
            self._view, silence=silence, unkept=self._kept.fault, failures=self._failures, is_copy=bool(self._kept.copy)
        )
        return replace(told, busy=busy, calling_from=self._calling_from, watching=watching, now=now)

    def diff(self, desired: RegistrationSpec | None, observed: Observed) -> tuple[Action, ...]:
        if desired is None:
            return (Leave(),) if observed.registration is not None or observed.busy or observed.error is not None else ()
        access = Access(desired.target, desired.svid)
        if observed.access != access:
            return (Use(access), *self.diff(desired, replace(observed, access=access)))
        if observed.busy and observed.calling_from != desired.request.addresses:
            return (Register(desired),)  # the answer cannot come any more
        # What failed from the old address says nothing of the new one.
        moved = observed.request != desired.request and observed.calling_from != desired.request.addresses
        if observed.busy or (observed.now < observed.retry_at and not moved):
            return ()
        if observed.registration is None or observed.request != desired.request:
            return (Register(desired),)
        actions: list[Action] = [] if observed.watching else [Follow(desired)]
        if desired.readiness.decided and observed.reported != desired.readiness:
            actions.append(Report(desired))
        return tuple(actions)

    async def apply(self, action: Action) -> None:
        match action:
            case Use(access):
                self._view = replace(self._view, access=access)
            case Register(spec):
                self._start("registering", spec, self._register(spec), "registered")
            case Report(spec):
                self._start("reporting the state", spec, self._report(spec), "state reported")
            case Follow(spec):
                self._follow = tasks.keep("following the registration", self._following, self._clock)
            case Leave():
                await self._leave()

    def _start(self, what: str, spec: RegistrationSpec, call: Awaitable[None], done: str) -> None:
        if self._call is not None:
            self._call.cancel()
        self._calling_from = spec.request.addresses

        async def run() -> None:
            try:
                with tasks.unexpected(what):  # a bug too is a failure, and the cycle tries again after the pause
                    await call
                self._failures = 0
                self._view = replace(self._view, error=None, retry_at=0.0)
                self._wake(done)
            except HarnessError as error:
                await self._failed(error)

        self._call = tasks.keep(what, run, self._clock)

    async def _failed(self, error: HarnessError) -> None:
        code = error.code if isinstance(error, RefusedError) else ""
        gone = code in GONE
        # The held call and a report fail together when a connection breaks: that is one failure.
        another = self._clock.now() >= self._view.retry_at
        if code == "copied":
            error = await self._as_copy(error)
        if isinstance(error, RefusedError) and (gone or code == OVERTAKEN):
            # Such a controller answers: there is no reason to wait, but not all of a fleet may call at the same moment.
            self._failures = 0
        else:
            self._failures += another
        if code == OVERTAKEN:
            # One replica may take this machine for overtaken for as long as it does not know what another one has answered.
            self._overtaken += another
        tries = self._overtaken if code == OVERTAKEN else self._failures
        delay = self._backoff().pause(tries, random.random())  # noqa: S311 (spreads load, guards nothing)
        if code in ("secret-mismatch", "invitation-invalid"):
            self._kept.drop()
        self._view = replace(
            self._view,
            error=error,
            retry_at=self._clock.now() + delay,
            registration=None if gone else self._view.registration,
            request=None if code == OVERTAKEN else self._view.request,
            reported=None,  # another replica may answer next, and must hear it again
        )
        self._wake(f"controller: {error.message}")
        if self._retry is not None:
            self._retry.cancel()
        self._retry = tasks.keep("the wait for the next call", partial(self._wake_after, delay), self._clock)

    def _backoff(self) -> Backoff:
        """Much shorter than a lease: a controller that is back waits one lease for those it held; then silent ones are lost."""
        registration = self._view.registration
        return BACKOFF if registration is None else BACKOFF.within(max(registration.lease_seconds / 3, BACKOFF.first))

    async def _wake_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._wake("the controller may be tried again")

    async def _register(self, spec: RegistrationSpec) -> None:
        await asyncio.to_thread(self._kept.begin)
        invitation = None if self._kept.name else files.read_line(self._invitation)
        request = replace(
            spec.request,
            instance_id=self._kept.own_id(spec.request.instance_id),
            secret=self._kept.secret,
            invitation=invitation,
            holder=self._next_mark(),
            before=self._holder,
        )
        self._registering += 1  # one that was cancelled may end after this one has begun
        try:
            registration = await self._controller.register(spec.target, spec.svid, request)
        finally:
            self._registering -= 1
        self._holder = request.holder
        if self._follow is not None:
            self._follow.cancel()  # it was begun with the mark, and maybe from the address, that was before
        if registration.secret:
            await asyncio.to_thread(self._kept.given, registration.secret, registration.name)
        self._view = replace(self._view, registration=replace(registration, secret=None), request=spec.request, reported=None)

    def _next_mark(self) -> str:
        """Its number grows within a boot, also over restarts of the daemon: by it the controller knows which mark is later."""
        self._marked = max(self._marked + 1, int(self._clock.boot() * 1000))
        return f"{self._boot}.{self._marked}.{secrets.token_hex(8)}"

    async def _as_copy(self, refusal: HarnessError) -> HarnessError:
        """The other machine keeps the registration; this one registers as a machine of its own, where it can keep that."""
        self._view = replace(self._view, copy_of=refusal)
        try:
            await asyncio.to_thread(self._kept.begin_as_copy)
        except UnwritableError as error:
            return error
        self._holder = ""
        return refusal

    async def _report(self, spec: RegistrationSpec) -> None:
        registration = self._view.registration
        if registration is None:
            return
        self._sequence = max(self._sequence + 1, int(self._clock.wall() * 1000))  # grows over restarts too
        state = StateReport(self._sequence, spec.readiness.ready, spec.readiness.reason, spec.readiness.message)
        await self._controller.report(spec.target, spec.svid, registration, self._kept.secret, state)
        self._view = replace(self._view, reported=spec.readiness)

    async def _following(self) -> None:
        """The held GET, again and again; it ends on an error, and the cycle starts it again."""
        while (registration := self._view.registration) is not None and (access := self._view.access) is not None:
            # After a failure it asks with an empty version, which no registration has, and so is answered at once: a whole hold
            # could outlast the lease.
            known = registration if self._view.error is None else replace(registration, version="")
            try:
                current = await self._controller.watch(access.target, access.svid, known, self._kept.secret)
            except HarnessError as error:
                # It may be this machine's own registration that has overtaken it, whose answer is still to come.
                if not (self._registering and isinstance(error, RefusedError) and error.code == OVERTAKEN):
                    await self._failed(error)
                return
            self._overtaken = 0
            if self._kept.fault is not None:
                await asyncio.to_thread(self._kept.keep)
            if current.version != registration.version and self._view.registration is not None:
                self._view = replace(self._view, registration=current)
                self._wake("the controller has news")
            if self._view.error is not None:
                self._failures = 0
                self._view = replace(self._view, error=None, retry_at=0.0)
                self._wake("the controller answers again")

    async def tell(self, spec: RegistrationSpec) -> None:
        """Reports at once, whatever pause an earlier failure asked for. Raises HarnessError."""
        if self._call is not None:
            await asyncio.wait([self._call], timeout=1.0)
        await self._report(spec)

    def release(self) -> None:
        """Ends the calls without leaving: the daemon after this one goes on with the same registration."""
        for task in (self._follow, self._call, self._retry):
            if task is not None:
                task.cancel()

    async def _leave(self) -> None:
        registration, access = self._view.registration, self._view.access
        for task in (self._follow, self._call, self._retry):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._view = Observed()
        if registration is not None and access is not None:
            await self._controller.leave(access.target, access.svid, registration, self._kept.secret)
            await asyncio.to_thread(self._kept.forget)

    def condition(self, desired: RegistrationSpec | None, observed: Observed) -> Condition:
        return registration_condition.of(desired, observed)
