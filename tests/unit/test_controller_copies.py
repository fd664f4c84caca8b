"""Two machines with one secret: one is a copy of the other. The older one keeps its name, and both are told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import pytest

from controller.admission import RefusedError
from controller.holders import MOST_MARKS, TOLD_SECONDS
from controller.model import Key
from controller.registry import Caller
from tests.controller_support import settle
from tests.unit.controller_world import FACE, World, refused, run
from tests.unit.copied_machine import FIRST, SECOND, SECRET, THIRD, Machine, address, warnings


def test_a_copy_is_refused_while_the_first_is_heard_and_takes_nothing_from_it() -> None:
    async def body(w: World) -> None:
        machine, copy = Machine(w, "boot-a", FIRST), Machine(w, "boot-b", SECOND)
        await machine.start()
        writes = w.workloads.writes
        with refused("copied"):
            await copy.join()
        await settle()
        assert (await address(w), w.workloads.writes) == (FIRST, writes), "no peer was sent to the copy, not for a moment"
        assert machine.made.copied_by == SECOND
        (warning,) = warnings(w)
        assert FIRST in warning and SECOND in warning
        for _ in range(round(TOLD_SECONDS / 20)):
            await w.clock.advance(20, step=10)
            await w.say(dataclasses.replace(machine.made, secret=SECRET), round(w.clock.now()), mark=machine.mark)
        await machine.call()
        assert machine.made.copied_by == "", "it is not told for ever"
        await machine.stop()

    run(body)


@pytest.mark.parametrize("boot", ["boot-a", "boot-b"])
def test_a_machine_that_was_started_anew_is_no_copy(boot: str) -> None:
    """The same daemon's next process, or the machine's next boot: its connections from before are still there."""

    async def body(w: World) -> None:
        before = Machine(w, "boot-a", FIRST)
        await before.join()
        silent = asyncio.create_task(before.call())
        await settle()
        await w.clock.advance(1)
        after = Machine(w, boot, SECOND)
        await after.join()
        with contextlib.suppress(RefusedError):
            await silent
        with refused("overtaken"):
            await before.call()
        assert (await address(w), warnings(w), after.made.copied_by) == (SECOND, [], "")

    run(body)


def test_a_copy_that_came_while_the_first_was_cut_off_gives_way() -> None:
    """Each call of either shows whose it is: the copy's calls do not keep the first one's registration alive."""

    async def body(w: World) -> None:
        machine, copy = Machine(w, "boot-a", FIRST), Machine(w, "boot-b", SECOND)
        await machine.join()
        await w.clock.advance(10)
        await copy.start()
        assert await address(w) == SECOND, "nobody knows better yet"
        await w.clock.advance(1)
        with refused("overtaken"):
            await machine.call()
        await machine.start()
        await settle()
        assert (copy.refused, machine.refused, await address(w)) == ("copied", "", FIRST)
        assert machine.made.copied_by == SECOND and warnings(w)
        await machine.stop()

    run(body)


def test_two_that_were_resumed_from_one_snapshot_are_told_apart() -> None:
    """They have the same boot id, and the same mark."""

    async def body(w: World) -> None:
        machine = Machine(w, "boot-a", FIRST)
        await machine.start()
        await w.clock.advance(10)
        copy = Machine(w, "boot-a", SECOND, machine.mark)
        await copy.start()  # its address is another, so it registers again
        await settle()
        assert (copy.refused, machine.refused, await address(w)) == ("copied", "", FIRST)
        assert machine.made.copied_by == SECOND
        machine.address = THIRD
        await machine.stop()
        await machine.start()
        assert machine.refused == "", "it is still the older one at another address"
        with refused("copied"):
            await copy.join()
        await machine.stop()

    run(body)


def test_a_machine_that_takes_another_address_is_no_copy() -> None:
    async def body(w: World) -> None:
        machine = Machine(w, "boot-a", FIRST)
        for own in (FIRST, SECOND, FIRST):
            machine.address = own
            await machine.join()
            await w.clock.advance(1)
            assert await address(w) == own
        assert warnings(w) == []

    run(body)


@pytest.mark.parametrize("moved", [(FIRST,) * 4, (SECOND,) * 4, (SECOND, FIRST, SECOND, THIRD), (SECOND, THIRD, FIRST, SECOND)])
def test_an_answer_that_was_lost_makes_no_copy(moved: tuple[str, ...]) -> None:
    """Nor do several, one after the other, of a machine whose address changes meanwhile."""

    async def body(w: World) -> None:
        machine = Machine(w, "boot-a", FIRST)
        await machine.join()
        shown, held = machine.mark, asyncio.create_task(machine.call())
        await settle()
        for own in moved:
            await w.clock.advance(1)
            machine.address, machine.mark = own, shown
            await machine.join()
            assert (await address(w), machine.made.copied_by) == (own, "")
        with contextlib.suppress(RefusedError):
            await held
        await machine.start()
        assert (machine.refused, machine.made.copied_by, warnings(w)) == ("", "", [])
        await machine.stop()

    run(body)


@pytest.mark.parametrize("restarted", [False, True])
def test_the_first_stays_the_older_one(restarted: bool) -> None:
    """Its address changes, or its daemon is restarted; and however often the copy has registered meanwhile."""

    async def body(w: World) -> None:
        machine, copy = Machine(w, "boot-a", FIRST), Machine(w, "boot-b", SECOND)
        await machine.join()
        await w.clock.advance(10)
        for _ in range(3 * MOST_MARKS):
            await copy.join()
        if restarted:
            await copy.start()
            machine.mark = ""
        await machine.join()
        await w.clock.advance(10)
        machine.address = THIRD
        await machine.join()
        with refused("copied"):
            await copy.join()
        assert (await address(w), copy.refused) == (THIRD, "copied" if restarted else "")
        record = w.fleet.records[Key("faces", machine.made.name)]
        assert len(record.marks) <= MOST_MARKS

    run(body)


def test_a_copy_is_overtaken_also_when_its_mark_is_no_longer_remembered() -> None:
    """It was resumed from a snapshot, after which the first machine has registered very often."""

    async def body(w: World) -> None:
        machine = Machine(w, "boot-a", FIRST)
        marks = []
        for _ in range(MOST_MARKS + 5):
            await machine.join()
            await w.clock.advance(1)
            marks.append(machine.mark)
        key = Key("faces", machine.made.name)
        forgotten = [mark for mark in marks if mark not in w.fleet.records[key].marks]
        assert marks[2] in forgotten and len(forgotten) == 5
        for mark in (*forgotten, "boot-a.without-a-number"):
            with refused("overtaken"):
                w.registry.authenticate(Caller(FACE, SECRET, mark), key)
        await machine.start()
        copy = Machine(w, "boot-a", SECOND, marks[2])
        await copy.start()
        await settle()
        assert (copy.refused, machine.refused, await address(w)) == ("copied", "", FIRST)
        await machine.stop()

    run(body)


def test_a_machine_that_shows_no_mark_is_served_as_ever() -> None:
    async def body(w: World) -> None:
        made = await w.join(ip=FIRST, secret=SECRET)
        await w.say(made, 1)
        again = await w.join(ip=SECOND, secret=SECRET)
        await w.say(again, 1)
        assert await address(w) == SECOND

    run(body)
