"""What is the machine's, and so its first workload's: routes and DNS. Another changes nothing there, and tells how they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import problems
from harness.status import Condition, Phase, Truth, retold, wrong
from harness.system import snapshot_reader

LOOK_SECONDS = 1.0
"""Between two looks, as long as the first workload's are not in place."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The condition that the first workload's daemon tells of, as in status.json; None without such a daemon.

    `unknown`: why that may no longer be true; empty when it counts.
    """

    told: dict[str, Any] | None
    unknown: str = ""


class Shared:
    """Satisfies Reconciler. `status`: the first workload's status.json; `tells`: the name of the condition there, and here."""

    def __init__(self, name: str, tells: str, status: Path, wake: Callable[[str], None]) -> None:
        self.name, self._tells, self._status, self._wake = name, tells, status, wake
        self._tried = f"reading {status}"
        self._look: asyncio.TimerHandle | None = None

    async def observe(self) -> Observed:
        status = snapshot_reader.read(self._status)
        told = next((one for one in status.get("conditions", ()) if one["name"] == self._tells), None)
        if (told is None or told["status"] != Truth.TRUE.value) and self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._again)
        return Observed(told, status["message"] if status["phase"] == Phase.UNKNOWN.text else "")

    def _again(self) -> None:
        self._look = None
        self._wake(f"the first workload's {self.name} may be in place")

    def diff(self, desired: object, observed: Observed) -> tuple[()]:
        return ()

    async def apply(self, action: object) -> None:
        """There is none."""

    def condition(self, desired: object, observed: Observed) -> Condition:
        told = observed.told
        if observed.unknown:
            return wrong(self._tells, Truth.UNKNOWN, problems.FIRST_WORKLOAD_STOPPED.found(self._tried, observed.unknown))
        if told is None:
            text = "the machine's first workload, which sets them, does not run"
            return wrong(self._tells, Truth.FALSE, problems.FIRST_WORKLOAD_STOPPED.found(self._tried, text))
        return retold(self._tells, told, "the first workload's")

    async def watch(self, desired: object) -> None:
        """Nodes are the first workload's to look after."""

    def release(self) -> None:
        """Nothing is held."""
