"""Which machine a registration's secret belongs to, when two have it: one is a copy of the other, with all of its files.

A machine takes a new holder's mark with each registration, and shows it with each call. A mark that is no longer the last one is
of a machine that has since been overtaken by another with the same secret. The older one keeps the registration.

A machine that did not get its answer shows an old mark too. It has the boot id of the present holder, and nobody shows the mark
that the answer would have brought: so it is neither a copy nor copied.

The marks of one boot have an order. So a mark that another replica has just given is told from one that was overtaken long ago,
also when the latter is no longer remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

from controller.admission import EndedError, RefusedError
from controller.fleet import Fleet, Record
from controller.replicas import Replicas
from harness.messages import RegistrationRequest
from harness.values import parse_address

HOLDER = "workload.meshexp.io/holder"
"""The annotation of a machine's Lease: the mark, and since when (epoch seconds)."""
MARKS = "workload.meshexp.io/marks"
"""All that are remembered, where there are several: a replica that has not heard the machine cannot know them."""
COPIED = "workload.meshexp.io/copied-by"
"""The address of a machine that was refused as its copy, and until when that is told (epoch seconds)."""
ANSWER_SECONDS = 1.0
"""A machine whose held answer ends calls again at once. One that was restarted cannot, and need not wait longer."""
TOLD_SECONDS = 3600.0
"""A machine is told so long that there was a copy of it."""
MOST_MARKS = 8
_NUMBERED = re.compile(r"[A-Za-z0-9-]*\.([0-9]{1,20})\.[A-Za-z0-9.-]+")
_OLDER_SECONDS = 0.001
"""Two machines resumed from one snapshot have the same boot id, and so the same age. The first one is made older by this much."""


@dataclass(frozen=True, slots=True)
class Holder:
    """`mark` begins with the boot id of the machine. `since`: epoch seconds of the first registration of this boot."""

    mark: str
    since: float

    @property
    def boot(self) -> str:
        return _boot(self.mark)

    def __str__(self) -> str:
        return f"{self.mark} {self.since:.3f}"


def _rounded(seconds: float) -> float:
    """As the annotation has it: what this replica knows and what it reads there are compared."""
    return round(seconds, 3)


def _boot(mark: str) -> str:
    return mark.partition(".")[0]


def _newer(mark: str, than: str) -> bool:
    """Whether a mark of the same boot is of a later registration. A mark without a number counts as the earliest one."""
    return _boot(mark) == _boot(than) and _number(mark) > _number(than)


def _number(mark: str) -> int:
    found = _NUMBERED.fullmatch(mark)
    return int(found[1]) if found else 0


def _parsed(text: str) -> list[Holder]:
    """Of an annotation; empty for one that is not understood."""
    words = text.split()
    try:
        return [Holder(mark, float(since)) for mark, since in zip(words[::2], words[1::2], strict=True)]
    except ValueError:
        return []


def shown_by(request: RegistrationRequest, wall: float) -> Holder | None:
    """None for a machine that shows no mark."""
    return Holder(request.holder, _rounded(wall)) if request.holder else None


class Holders:
    """Who holds each registration of this replica, and what other replicas say of it by the machine's Lease."""

    def __init__(self, fleet: Fleet, replicas: Replicas) -> None:
        self._fleet, self._replicas = fleet, replicas

    def check(self, record: Record, mark: str) -> None:
        """Raises EndedError when another machine has registered with this one's secret since."""
        current = self._current(record)
        if not mark or current is None or mark == current.mark:
            return
        if mark not in record.marks and _newer(mark, current.mark):
            return  # another replica has taken it in, and the machine's Lease does not say so yet
        hint = "register again: the controller finds out which of the two was first"
        raise EndedError("overtaken", f"another call has registered as {record.key} since", hint)

    async def admit(self, record: Record, request: RegistrationRequest) -> Holder | None:
        """The holder from now on; None for a machine that shows no mark. Raises RefusedError for the copy of another machine.

        The caller has checked the secret, and holds the lock.
        """
        wanted = shown_by(request, self._fleet.clock.wall())
        current = self._current(record)
        if wanted is None or current is None:
            return wanted
        same_boot = wanted.boot == current.boot
        # A restart and another address do not make a machine younger than its copy.
        heir = dataclasses.replace(wanted, since=current.since) if same_boot else wanted
        if self._fleet.lapsed(record) or current.mark in (request.holder, request.before):
            return heir
        before = record.marks.get(request.before)
        if before is None and not same_boot:
            # A daemon that was restarted has no mark to show.
            before = min((since for mark, since in record.marks.items() if _boot(mark) == wanted.boot), default=None)
        if before is None:
            if not same_boot and await self._speaks(record):
                raise self._copied(record, request)
            return heir
        spoken = same_boot and await self._speaks(record)
        if same_boot and not spoken and record.member.addresses == request.addresses[:1]:
            return heir
        if before > current.since:
            raise self._copied(record, request)
        if spoken or not same_boot:
            self._note(record, str(record.member.addresses[0]))
        first = min(before, _rounded(current.since - _OLDER_SECONDS))
        if request.before in record.marks:
            record.marks[request.before] = first  # this answer may be lost too
        return dataclasses.replace(wanted, since=first)

    def text(self, record: Record, holder: Holder | None) -> Mapping[str, str]:
        """What the machine's Lease is to say of it."""
        if holder is None:
            return {}
        _remember(record, holder.mark, holder.since)
        marks = " ".join(f"{mark} {since:.3f}" for mark, since in record.marks.items())
        return {HOLDER: str(holder)} | ({MARKS: marks} if len(record.marks) > 1 else {})

    def _copied(self, record: Record, request: RegistrationRequest) -> RefusedError:
        self._note(record, str(request.addresses[0]))
        held = f"{record.key} is held by {record.member.hostname} at {record.member.addresses[0]}"
        copy = f"{request.hostname} at {request.addresses[0]} is a copy of that machine, with its secret"
        return RefusedError("copied", f"{held}; {copy}", "a copy takes a name of its own")

    def _note(self, record: Record, address: str) -> None:
        until = self._fleet.clock.wall() + TOLD_SECONDS
        self._replicas.say(record.key, {COPIED: f"{address} {until:.0f}"})
        record.wake()

    def _current(self, record: Record) -> Holder | None:
        found = _parsed(self._replicas.annotation(record.key, HOLDER))
        if not found:
            return None
        holder = found[0]
        if holder.mark not in record.marks:
            others = _parsed(self._replicas.annotation(record.key, MARKS))
            for one in (*(other for other in others if other.mark not in record.marks), holder):
                _remember(record, one.mark, one.since)
        return holder

    def copied_by(self, record: Record) -> str:
        """The address of a machine that was refused as its copy; empty when there was none lately."""
        address, _, until = self._replicas.annotation(record.key, COPIED).partition(" ")
        try:
            return str(parse_address(address)) if address and self._fleet.clock.wall() < float(until) else ""
        except ValueError:
            return ""

    async def _speaks(self, record: Record) -> bool:
        """Whether the machine that holds it calls again, when its held answer ends."""
        record.listener = listener = asyncio.get_running_loop().create_future()
        record.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await listener
                return True
        return False


def _remember(record: Record, mark: str, since: float) -> None:
    """At most MOST_MARKS are kept. The earliest ones are removed first, but never those of the oldest machine, which is
    recognised by them.
    """
    marks = record.marks
    marks[mark] = since
    while len(marks) > MOST_MARKS:
        # Those of one boot are of the same age, and its machine may show the first or the last of them.
        oldest = {min(marks, key=marks.__getitem__), min(reversed(marks), key=marks.__getitem__)}
        del marks[next(one for one in marks if one not in oldest)]
