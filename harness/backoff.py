"""How long to wait after a failure: twice as long after each, up to the longest. The one place that computes it.

Pure: the caller counts its failures and draws the chance. It imports nothing, since a child with few imports uses it too
(`system/workload_api_child.py`), and is a plain class for the same reason.
"""

from __future__ import annotations


class Backoff:
    """`first`, `most`: seconds to wait after the first failure, and the longest wait.

    `spread`: the share of a pause, from 0 to 1, that chance may take off: so that many callers that failed together do not all
    try again together.
    """

    __slots__ = ("first", "most", "spread")

    def __init__(self, first: float, most: float, spread: float = 0.0) -> None:
        if not (0.0 < first <= most < float("inf") and 0.0 <= spread < 1.0):
            raise ValueError(f"no backoff: first {first}, most {most}, spread {spread}")
        self.first, self.most, self.spread = first, most, spread

    def pause(self, failures: int, chance: float = 0.0) -> float:
        """Seconds to wait after so many failures in a row, however many. `chance`: from 0 (all of the pause) to 1 (the least)."""
        pause = self.first
        doublings = failures - 1
        while doublings > 0 and pause < self.most:  # a power of two would overflow
            pause *= 2
            doublings -= 1
        return min(pause, self.most) * (1.0 - self.spread * chance)

    def within(self, most: float) -> Backoff:
        """The same, with a longest pause of at most `most` seconds."""
        longest = min(self.most, most)
        return Backoff(min(self.first, longest), longest, self.spread)
