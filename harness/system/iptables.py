"""The iptables backend: chains MESHEXP_… in the legacy nat tables, for hosts whose firewall is legacy iptables.

python-iptables never enters this process: see iptables_child (one family, one look or change) and iptables_guard (a trial).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import structlog

from harness.errors import HarnessError, PermissionError_, TemporaryError, UnavailableError, UnreadableError, UnwritableError
from harness.rules import Family, Hook, Rules
from harness.system import files, inotify, iptables_guard, iptables_text, xtables
from harness.system.iptables_child import lock_file
from harness.system.iptables_text import BUILTIN, chain_name
from harness.system.redirect_table import FIRST, BackendKind, Marks, NotRestoredError, TableState, marks_in

log = structlog.get_logger()

SETTLE_SECONDS = 0.1
"""After another tool's command: the next of a burst often fails when it finds the lock taken, and may undo a repair anyway."""
_ATTEMPTS = 3
_HINTS = {"unavailable": "install python3-iptables and a kernel with legacy iptables, or set redirect.backend to nftables"}
_KINDS = {"unavailable": UnavailableError, "permission": PermissionError_, "temporary": TemporaryError}


def _raise(answer: dict[str, Any]) -> None:
    if "error" in answer:
        raise _KINDS[answer["kind"]](f"iptables: {answer['error']}", _HINTS.get(answer["kind"], ""))


def _images(tables: dict[Family, xtables.NatTable]) -> tuple[bytes, ...]:
    return tuple(table.image for table in tables.values())


def _tables() -> dict[Family, xtables.NatTable]:
    try:
        return {family: xtables.nat_table(family) for family in Family}
    except PermissionError as error:
        raise PermissionError_(f"iptables: {error}", "CAP_NET_ADMIN and CAP_NET_RAW are needed") from None
    except OSError as error:
        raise TemporaryError(f"iptables: {error}") from None


def _keep(record: Path, before: dict[str, iptables_guard.Request]) -> bool:
    """False where it cannot be kept: a trial goes without. On a full disk, too, rules that are gone must come back."""
    try:
        files.write_json(record, before, mode=0o600)
    except UnwritableError as error:
        if not error.read_only:
            log.warning("should the trial of the redirect rules be killed, nobody will take them back", reason=error.message)
        return False
    return True


def take_back(record: Path) -> bool:
    """The rules before a trial whose guard was killed too, as systemd does with all that is left of a unit; False when there was
    none. Blocking. Raises HarnessError."""
    try:
        before = files.kept_json(record)
    except UnreadableError as error:
        if error.absent:
            return False
        raise
    if before:
        _raise(iptables_guard.replace(before))
    files.remove(record)
    return bool(before)


class Iptables:
    """Satisfies Backend."""

    kind = BackendKind.IPTABLES

    def __init__(self, marks: Marks = FIRST) -> None:
        self._marks = marks
        self._looking = threading.Lock()
        self._seen: tuple[tuple[bytes, ...], TableState] = ((), TableState())
        self._jumps: tuple[tuple[Family, Hook], ...] = ()
        self._chains: tuple[tuple[Family, str], ...] = ()

    def check(self) -> None:
        """Blocking. Raises UnavailableError when python-iptables or the kernel's legacy nat table is missing."""
        if importlib.util.find_spec("iptc") is None:
            raise UnavailableError("python-iptables is not installed", _HINTS["unavailable"])
        _raise(iptables_guard.ask("4", self._list))

    @property
    def _list(self) -> iptables_guard.Request:
        return {"op": "list", "prefix": self._marks.prefix}

    def entries(self) -> int:
        """How many rules the legacy nat tables have, and two for each chain. Blocking. Raises HarnessError."""
        return sum(table.entries for table in _tables().values())

    def marks(self) -> frozenset[Marks]:
        """Of whom there are chains. Blocking. Raises HarnessError."""
        return frozenset(found for table in _tables().values() for found in marks_in(table.image))

    async def observe(self) -> TableState:
        return await asyncio.to_thread(self._observe)

    def _observe(self) -> TableState:
        """A table that did not change since the last look (counters apart) is not looked into again.

        What was seen is only kept when the table was the same before and after the look, so that it is that table's.
        """
        with self._looking:
            tables = _tables()
            for _ in range(_ATTEMPTS):
                if _images(tables) == self._seen[0]:
                    break
                state = self._look([family for family, table in tables.items() if table.names(self._marks.prefix)])
                before, tables = tables, _tables()
                self._seen = _images(before) if _images(before) == _images(tables) else (), state
            return self._seen[1]

    def _look(self, families: list[Family]) -> TableState:
        rules: list[Any] = []
        strange: list[str] = []
        jumps: list[tuple[Family, Hook]] = []
        chains: list[tuple[Family, str]] = []
        answers = iptables_guard.ask_all({str(family.value): self._list for family in families})
        for family in families:
            found = answers[str(family.value)]
            _raise(found)
            try:
                records, oddities = iptables_text.parse(found["chains"], family, self._marks)
            except ValueError as error:
                raise TemporaryError(f"iptables: {error}", "`iptables-legacy-save` shows the rules") from None
            rules += records
            strange += oddities
            chains += [(family, chain) for chain in found["chains"]]
            for hook, builtin in BUILTIN.items():
                own = chain_name(hook, self._marks)
                places = [place for place, target in found["jumps"].get(builtin, []) if target == own]
                jumps += [(family, hook)] * len(places)
                if places != [0] and own in found["chains"]:
                    strange.append(f"IPv{family.value} {builtin} must jump to our chain once, first of all")
        self._jumps, self._chains = tuple(jumps), tuple(chains)
        return TableState(present=bool(jumps or chains), rules=tuple(rules), strange=tuple(strange))

    @contextlib.asynccontextmanager
    async def trial(self, new: Rules, old: Rules, seconds: float, record: Path | None = None) -> AsyncIterator[IptablesTrial]:
        families = self._concerned(new, old)
        before = self._requests(old, families)
        kept = record is not None and _keep(record, before)
        order = {"new": self._requests(new, families), "old": before, "seconds": seconds, "record": str(record) if kept else None}
        guard = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "harness.system.iptables_guard",
            stdin=PIPE, stdout=PIPE, start_new_session=True, env=iptables_guard.environment(),
        )  # fmt: skip
        trial = IptablesTrial(guard)
        try:
            _raise(await trial.say(json.dumps(order)))
            yield trial
        finally:
            self._seen = (), TableState()
            await asyncio.shield(_ended(trial, record if kept else None))

    async def replace(self, rules: Rules) -> None:
        _raise(await asyncio.to_thread(iptables_guard.replace, self._requests(rules, self._concerned(rules))))
        self._seen = (), TableState()

    def _concerned(self, *sets: Rules) -> list[Family]:
        """The families whose table is to be written; another's is not even made."""
        return [
            family
            for family, table in _tables().items()
            if any(iptables_text.entries(rules, family, self._marks) for rules in sets) or table.names(self._marks.prefix)
        ]

    def _requests(self, rules: Rules, families: Iterable[Family]) -> dict[str, iptables_guard.Request]:
        requests: dict[str, iptables_guard.Request] = {}
        for family in families:
            chains = iptables_text.entries(rules, family, self._marks)
            jumps = {
                builtin: iptables_text.jump(hook, self._marks)
                for hook, builtin in BUILTIN.items()
                if chain_name(hook, self._marks) in chains
            }
            requests[str(family.value)] = {"op": "replace", "prefix": self._marks.prefix, "chains": chains, "jumps": jumps}
        return requests

    def render_text(self, rules: Rules) -> str:
        """For what the last look found."""
        return iptables_text.restore_text(rules, self._jumps, self._chains, self._marks)

    async def changes(self) -> AsyncIterator[str]:
        """Legacy iptables announces nothing; but every one of its tools closes the lock file when it is done."""
        lock = Path(lock_file())
        lock.touch(0o600, exist_ok=True)
        async for _ in inotify.closings(lock):
            await asyncio.sleep(SETTLE_SECONDS)
            yield f"an iptables tool has used {lock}"


class IptablesTrial:
    """Satisfies Trial. The guard alone decides whether a confirmation came in time."""

    def __init__(self, guard: Process) -> None:
        self._guard = guard

    async def confirm(self) -> None:
        answer = await self.say("confirm")
        _raise(answer)
        if not answer.get("confirmed"):
            raise TemporaryError("the new redirect rules were not confirmed in time; the ones before them are back")

    async def say(self, line: str) -> dict[str, Any]:
        """What the guard answers; TemporaryError when it died, which leaves the change in its place for the next cycle to see."""
        if self._guard.stdin is None or self._guard.stdout is None:
            raise HarnessError("the guard of the redirect has no pipes")
        with contextlib.suppress(ConnectionError):
            self._guard.stdin.write(line.encode() + b"\n")
            await self._guard.stdin.drain()
        answer = await self._guard.stdout.readline()
        if not answer:
            raise TemporaryError("the guard of the redirect's change has died")
        parsed: dict[str, Any] = json.loads(answer)
        return parsed

    async def end(self) -> dict[str, Any]:
        """The guard puts the old rules back when nothing was confirmed, then ends. Its last answer, if that is not yet known."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        said = await self._guard.stdout.read() if self._guard.stdout is not None else b""
        await self._guard.wait()
        lines = said.splitlines()
        last: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return last


async def _ended(trial: IptablesTrial, record: Path | None) -> None:
    """Raises NotRestoredError when nobody could put the old rules back."""
    last = await trial.end()
    if record is None:
        if not last.get("restored", True):
            raise NotRestoredError(f"iptables: {last['error']}", _HINTS.get(last["kind"], ""))
        return
    try:
        await asyncio.to_thread(take_back, record)  # a guard that has put them back has left none
    except HarnessError as fault:
        raise NotRestoredError(fault.message, fault.hint) from None
