"""Brings one part after the other to what is wanted. A failure in one part stops no other part, and takes nothing away."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from harness import phrases, problems, tasks
from harness.config import schema
from harness.daemon.compose import Part, Parts
from harness.daemon.snapshot import Counters
from harness.desired import Desired, may_redirect
from harness.errors import HarnessError, InternalError, UnwritableError
from harness.known import Progress
from harness.route_clashes import is_within
from harness.rules import rules_for
from harness.status import Condition, Truth, made_worse, wrong

SHARED_WITH_OTHERS = ("routes", "dns", "redirect")
"""Parts that any program on this machine may change; the others are this daemon's own."""
NAMED_AGAIN = (1, 10, 100, 1000)
"""The first, tenth, … repair of the same thing is named; those between are only counted."""
MOST_REMEMBERED = 1000


def is_left(config: schema.Config, progress: Progress) -> bool:
    """Whether the proxy and the rules of the daemon before this one stay as they are: nobody knows yet what they are to be, since
    what the controller told is lost. Without the rules all would go on in plaintext."""
    return progress.registration is None and progress.redirected and may_redirect(config, progress)


def order(parts: Parts, want: Desired, progress: Progress) -> tuple[Part, ...]:
    """Up; but on a member its rules first, so that no route leads to the mesh before them."""
    if progress.member is None or want.redirect is None:
        return parts.up
    return parts.redirect, *(part for part in parts.up if part is not parts.redirect)


def guarded(parts: Parts, want: Desired, progress: Progress) -> bool:
    """Whether the routes may change: on a member only while rules that cover their networks are in force. Other rules than those
    that are wanted will do, such as the ones before a change that failed its self-test."""
    if progress.member is None or want.redirect is None or not rules_for(want.redirect):
        return True
    if parts.redirect_in_force() == want.redirect:
        return True
    covered = parts.redirect_covers()
    return all(any(is_within(route.network, one) for one in covered) for route in want.routes or ())


def with_routed(want: Desired, routes: Any, progress: Progress) -> Desired:
    """On a member a network keeps its rule until its route is gone. `routes`: what was observed of them."""
    if progress.member is None or want.redirect is None:
        return want
    routed = sorted((route.network for route in getattr(routes, "ours", ())), key=str)
    networks = tuple(dict.fromkeys((*want.redirect.outbound_networks, *routed)))
    return replace(want, redirect=replace(want.redirect, outbound_networks=networks))


class Bringer:
    def __init__(self, counters: Counters, log: Any) -> None:
        self._counters, self._log = counters, log
        self._failures: dict[str, str] = {}
        self._repaired: Counter[tuple[str, str]] = Counter()
        self._right: dict[str, object] = {}
        self._seen: dict[str, Any] = {}
        self._said: dict[str, Condition] = {}

    async def last(self, part: Part) -> Any:
        """What the part observed last. Raises HarnessError when there is no look and none succeeds."""
        return self._seen[part.name] if part.name in self._seen else await self.look(part)

    async def look(self, part: Part) -> Any:
        """What the part observes; where that fails, what it observed last. Raises HarnessError when there is no earlier look."""
        try:
            return await self._observe(part)
        except HarnessError:
            if part.name not in self._seen:
                raise
            return self._seen[part.name]

    async def _observe(self, part: Part) -> Any:
        with tasks.unexpected(f"the look at {part.name}"):
            self._seen[part.name] = await part.reconciler.observe()
        return self._seen[part.name]

    async def bring(self, part: Part, wanted: Any, *, change: bool = True, keeps: bool = False) -> Condition:
        """Changes the part where it must and may be changed. `keeps`: what is there stays, also when it is not wanted.

        Returns its condition: Unknown with a problem if it cannot be looked at.
        """
        failure: HarnessError | None = None
        try:
            observed = await self._change(part, wanted, keeps) if change else await self._observe(part)
        except HarnessError as error:
            self._counters.failures[part.name] += 1
            observed, failure = None, error
        self._note_failure(part.name, failure)
        condition = await self._condition(part, wanted, observed, failure)
        right = condition.truth is Truth.TRUE and (condition.problem is None or condition.problem.standing)
        self._right[part.name] = wanted if right else None
        return condition

    def leave(self, part: Part) -> Condition:
        """How a part is told of that is left as it is."""
        name = "Redirected" if part.name == "redirect" else part.name.capitalize()
        return Condition(name, Truth.UNKNOWN, phrases.LEFT)

    async def _change(self, part: Part, wanted: Any, keeps: bool) -> Any:
        reconciler = part.reconciler
        observed = await self._observe(part)
        with tasks.unexpected(part.name):
            actions = [action for action in reconciler.diff(wanted, observed) if not (keeps and action.removes)]
            repair = wanted is not None and self._right.get(part.name) == wanted
            for action in actions:
                self._log_action(part.name, str(action), repair)
                self._counters.changes[part.name] += 1
                if repair:
                    self._counters.repairs[part.name] += 1
                await reconciler.apply(action)
        return await self._observe(part) if actions else observed

    def _log_action(self, name: str, action: str, repair: bool) -> None:
        """A repair of what any program may change is named as one; what is repaired again and again is not named each time."""
        first = action.partition("\n")[0]
        times = self._repaired[name, first] = self._repaired[name, first] + repair
        if len(self._repaired) > MOST_REMEMBERED:
            self._repaired.clear()
        if repair and name in SHARED_WITH_OTHERS and times in NAMED_AGAIN:
            self._log.warning("no longer as it was set; repaired", part=name, repair=first.removeprefix("# "), times=times)
        else:
            self._log.info(first, part=name)
        self._log.debug("action", text=action)

    async def _condition(self, part: Part, wanted: Any, observed: Any, failure: HarnessError | None) -> Condition:
        try:
            observed = await self._observe(part) if failure is not None else observed
            with tasks.unexpected(part.name):
                condition = part.reconciler.condition(wanted, observed)
        except HarnessError as error:
            said = self._said.get(part.name)
            name = said.name if said else part.name.capitalize()
            return wrong(name, Truth.UNKNOWN, problems.of_failure(f"the look at {part.name}", error))
        self._said[part.name] = condition
        if failure is None or condition.problem is not None:
            return condition
        if isinstance(failure, InternalError):  # after a bug the part may still be right
            return made_worse(condition, problems.of_failure(f"changing {part.name}", failure))
        if isinstance(failure, UnwritableError):
            return wrong(condition.name, Truth.FALSE, problems.of_failure(f"changing {part.name}", failure))
        return replace(condition, truth=Truth.FALSE, message=f"changing {part.name}: {failure.message}")

    def _note_failure(self, name: str, failure: HarnessError | None) -> None:
        """Logs a failure once, also when it is repeated. A bug was logged before (Bugs.note)."""
        message = failure.message if failure is not None else ""
        if failure is not None and not isinstance(failure, InternalError) and self._failures.get(name) != message:
            self._log.error(message, part=name, hint=failure.hint)
        self._failures[name] = message
