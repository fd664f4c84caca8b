"""The faults that a workload can be told to show: delay, errors, latched errors, a maximum rate."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

UNLATCH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Faults:
    """Fractions are percentages; a `max_rate` below 0.1 requests per second means none."""

    delays_ms: tuple[int, ...] = ()
    error_fraction: int = 0
    latch_fraction: int = 0
    max_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    status: int = 200
    message: str = ""


def from_environment(environment: Mapping[str, str]) -> Faults:
    """ValueError for what is not a number."""
    buckets = environment.get("DELAY_BUCKETS", "")
    return Faults(
        tuple(max(0, int(text)) for text in buckets.split(",") if text.strip()),
        _percentage(environment.get("ERROR_FRACTION", "0")),
        _percentage(environment.get("LATCH_FRACTION", "0")),
        float(environment.get("MAX_RATE") or "0"),
    )


def _percentage(text: str) -> int:
    return min(100, max(0, int(text or "0")))


class Injector:
    """Decides on each request; safe to call from several threads."""

    def __init__(
        self, faults: Faults, chance: Callable[[], float] = random.random, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._faults, self._chance, self._now = faults, chance, now
        self._lock = threading.Lock()
        self._latched = False
        self._last = now()
        self._tokens = max(1.0, faults.max_rate)

    def judge(self) -> Verdict:
        with self._lock:
            elapsed = self._now() - self._last
            self._last += elapsed
            if self._over_rate(elapsed):
                return Verdict(429, f"rate limited: more than {self._faults.max_rate:g} requests per second")
            if self._latched and elapsed <= UNLATCH_SECONDS:
                return Verdict(599, "latched into the error state")
            self._latched = False
            if not self._hits(self._faults.error_fraction):
                return Verdict()
            if self._hits(self._faults.latch_fraction):
                self._latched = True
                return Verdict(599, "error fraction triggered, and latched")
            return Verdict(500, "error fraction triggered")

    def delay_seconds(self) -> float:
        delays = self._faults.delays_ms
        return delays[int(self._chance() * len(delays))] / 1000 if delays else 0.0

    def _over_rate(self, elapsed: float) -> bool:
        """A bucket that holds one second's worth of requests, and one at least."""
        rate = self._faults.max_rate
        if rate < 0.1:
            return False
        self._tokens = min(max(1.0, rate), self._tokens + elapsed * rate)
        if self._tokens < 1.0:
            return True
        self._tokens -= 1.0
        return False

    def _hits(self, percentage: int) -> bool:
        return self._chance() * 100 < percentage
