"""Errors that no code expects, and what the daemon does then. None of them takes a working member out of the mesh.

Under systemd the daemon ends with an error, and leaves everything as it is: the proxy is a unit of its own, and the next daemon
takes all of it over. Elsewhere the proxy is a child and would end too: there what failed is run again in this process, after a
pause. Under systemd too, when the daemon before this one ended by a bug a short time ago: a daemon that ends again and again
renews no lease, and the cluster would take the machine out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from harness import phrases, problems, tasks, times
from harness.clock import Clock
from harness.errors import HarnessError, InternalError
from harness.paths import Paths
from harness.status import Condition, Truth, wrong
from harness.system import files, systemd

T = TypeVar("T")
SHOWN_SECONDS = 60.0
"""How long a bug is shown after it was last met: longer than every pause before another try, so that one that lasts stays."""
AGAIN_SECONDS = 600.0
"""After a daemon has ended by a bug, no later one ends by a bug for so long."""
MOST_SHOWN, MOST_KEPT = 3, 20
MOST_CHARACTERS = 100
"""Of the name of what failed."""


@dataclass(slots=True)
class Met:
    """One thing that failed. `since`: epoch seconds. `last`: Clock.now()."""

    what: str
    since: float
    line: str
    times: int = 0
    last: float = 0.0

    def __str__(self) -> str:
        since = times.moment(self.since)
        return f"{self.what} failed {phrases.counted(self.times, 'time')} since {since}, last with {self.line}"


def log(logger: Any, what: str, error: BaseException) -> None:
    """With the whole traceback."""
    logger.error(f"a bug: {what} failed", exc_info=(type(error), error, error.__traceback__))


class Bugs:
    """`fatal`: the daemon has to end, and leaves everything as it is. `number`: how many bugs were met."""

    def __init__(self, paths: Paths, clock: Clock, wake: Callable[[str], None], log: Any, unit: str | None) -> None:
        self._record, self._clock, self._wake, self._log = paths.bug, clock, wake, log
        self._met: dict[str, Met] = {}
        self._logged: set[tuple[str, type[BaseException]]] = set()
        self._failing: dict[str, HarnessError] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._ends = unit is not None
        self.fatal = False
        self.number = 0
        self._remember()

    def _remember(self) -> None:
        """What the daemon before this one ended by is shown, and does not end this one too."""
        left = files.read_json(self._record)
        what, line, when = left.get("what"), left.get("line"), left.get("when")
        if not (isinstance(what, str) and isinstance(line, str) and isinstance(when, int | float)):
            return
        if 0 <= self._clock.wall() - when < AGAIN_SECONDS:
            self._ends = False
            self._met[what] = Met(what, when, line, 1, self._clock.now())

    def forget(self) -> None:
        """Removes the record: this daemon ends without a bug, and the next one finds none."""
        with contextlib.suppress(OSError):
            self._record.unlink(missing_ok=True)

    def note(self, what: str, error: BaseException) -> None:
        """Satisfies tasks.Tell."""
        line = tasks.sentence(error)
        what = what[:MOST_CHARACTERS]
        if what not in self._met and len(self._met) >= MOST_KEPT:
            what = "something else"
        met = self._met.setdefault(what, Met(what, self._clock.wall(), line))
        if (what, type(error)) not in self._logged:
            self._logged.add((what, type(error)))
            log(self._log, what, error)
        met.line = line
        met.last = self._clock.now()
        met.times += 1
        self.number += 1
        if self._ends and not isinstance(error, HarnessError):
            self._end(met)
        elif self._retry is None:
            pause = tasks.BACKOFF.pause(met.times)
            self._retry = asyncio.get_running_loop().call_later(pause, self._again, f"{what} may go well now")

    def _again(self, reason: str) -> None:
        self._retry = None
        self._wake(reason)

    def _end(self, met: Met) -> None:
        self.fatal = True
        systemd.notify(STATUS=f"ends by a bug, and starts again: {met}")
        try:
            left = {"what": met.what, "line": met.line, "when": self._clock.wall()}
            files.write_json(self._record, left, mode=0o600)
        except HarnessError as error:
            self._log.warning("the bug cannot be recorded for the next daemon", reason=error.message)
        self._wake("bug")

    async def attempt(self, what: str, work: Awaitable[T]) -> T | None:
        """The result; None when the work fails, which is logged, and shown until it goes well."""
        try:
            with tasks.unexpected(what):
                result = await work
        except InternalError:
            return None
        except HarnessError as error:
            self.fault(what, error)
            return None
        self._failing.pop(what, None)
        return result

    def fault(self, what: str, error: HarnessError) -> None:
        before = self._failing.get(what)
        if before is None or before.message != error.message:
            self._log.error(error.message, step=what, hint=error.hint)
        self._failing[what] = error

    def conditions(self) -> tuple[Condition, ...]:
        """The daemon's own conditions: one for bugs, one for failing steps; none when all goes well."""
        now = self._clock.now()
        self._met = {what: met for what, met in self._met.items() if now - met.last < SHOWN_SECONDS}
        said = []
        if self._met:
            latest = sorted(self._met.values(), key=lambda met: -met.last)
            more = len(latest) - MOST_SHOWN
            text = "; ".join(map(str, latest[:MOST_SHOWN])) + (f"; and {more} more" if more > 0 else "")
            said.append(wrong("Program", Truth.TRUE, problems.INTERNAL_ERROR.found("the daemon's own work", text)))
        if self._failing:
            (tried, first), *others = self._failing.items()
            found = problems.of_failure(tried, first)
            others_too = "".join(f"; {what}: {error.message}" for what, error in others)
            said.append(wrong("Steps", Truth.TRUE, replace(found, came=f"{found.came}{others_too}")))
        return tuple(said)
