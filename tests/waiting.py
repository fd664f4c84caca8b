"""Waiting for what another program is to do."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_SECONDS = 1.0  # between two looks


def wait(
    holds: Callable[[], object],
    seconds: float = 60.0,
    why: Callable[[], str] = lambda: "",
    every: float = 0.05,
    share: float = 0.2,
) -> float:
    """Seconds until it holds; AssertionError when it does not.

    `share`: of the time, at most, that goes into looking: a look that starts a program takes from the core that is waited for.
    With 1 nothing is added to `every`, for what is measured.
    """
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        if holds():
            return time.monotonic() - began
        now = time.monotonic()
        assert now - began < seconds, f"not within {seconds} s: {why()}"
        time.sleep(min(MOST_SECONDS, max(every, (now - asked) * (1 / share - 1))))
