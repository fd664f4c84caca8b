"""How long the controller has been silent, against the lease: the time after which the cluster takes a machine for gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from harness.clock import Clock
from harness.messages import Registration

LATE_SECONDS = 0.05
"""The cycle is woken so long after the end of the lease: a timer that fires a little early would find the lease not over."""


@dataclass(frozen=True, slots=True)
class Silence:
    """`seconds` since the last answer; each answer renews the lease."""

    seconds: float
    lease_seconds: float

    @property
    def lapsed(self) -> bool:
        return self.seconds >= self.lease_seconds

    def __str__(self) -> str:
        return f"no answer for {int(self.seconds)} s (lease {self.lease_seconds:g} s): peers may have stopped sending"


class Lease:
    """Is told of every answer of the controller, and wakes the cycle when the lease is over.

    `known`: the registration that the daemon before this one left. Its silence counts from the start of this daemon.
    Time in which the machine was suspended counts too, as it does for the cluster.
    """

    def __init__(self, clock: Clock, wake: Callable[[str], None], known: Registration | None = None) -> None:
        self._clock = clock
        self._wake = wake
        self._lease_seconds: float | None = None
        self._answered_at = clock.boot()
        self._timer: asyncio.TimerHandle | None = None
        if known is not None:
            self.answered(known)

    def answered(self, registration: Registration | None = None) -> None:
        """`registration`: of an answer that carries one."""
        if registration is not None:
            self._lease_seconds = registration.lease_seconds
        self._answered_at = self._clock.boot()
        self._stop_timer()
        if self._lease_seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._lease_seconds + LATE_SECONDS, self._wake, "the lease has ended")

    def left(self) -> None:
        """There is no registration any more."""
        self._lease_seconds = None
        self._stop_timer()

    def silence(self) -> Silence | None:
        """None before the first registration and after the last."""
        if self._lease_seconds is None:
            return None
        return Silence(self._clock.boot() - self._answered_at, self._lease_seconds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
