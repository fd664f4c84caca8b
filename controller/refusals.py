"""Writes that the store has refused for good are not made again and again: later, and ever later. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from harness.backoff import Backoff

K = TypeVar("K", bound=Hashable)
_BACKOFF = Backoff(first=5.0, most=300.0)
"""Somebody has to correct a right or an object; no write of ours does."""


class Refusals(Generic[K]):
    """By what is written. Times are seconds that only grow."""

    def __init__(self) -> None:
        self._refused: dict[K, tuple[int, float]] = {}

    def refused(self, key: K, now: float) -> None:
        times = self._refused.get(key, (0, 0.0))[0] + 1
        self._refused[key] = times, now + _BACKOFF.pause(times)

    def taken(self, key: K) -> None:
        """It was written, or is not wanted any more."""
        self._refused.pop(key, None)

    def is_due(self, key: K, now: float) -> bool:
        return key not in self._refused or now >= self._refused[key][1]
