"""What the replicas of a controller know of each other's registrations, of one machine and of a copy of it."""

from __future__ import annotations

import asyncio

import pytest

from controller.holders import HOLDER, TOLD_SECONDS
from controller.model import Key
from controller.registry import Caller
from tests.controller_support import settle
from tests.unit import replica_site
from tests.unit.controller_world import FACE, refused
from tests.unit.copied_machine import FIRST, SECOND, SECRET, Machine, address
from tests.unit.replica_site import Site


def test_a_copy_at_another_replica_gives_way() -> None:
    async def body(s: Site) -> None:
        one, two = s.worlds["one"], s.worlds["two"]
        machine, copy = Machine(one, "boot-a", FIRST), Machine(two, "boot-b", SECOND)
        await machine.start()
        await s.clock.advance(1)
        await copy.start()
        await s.clock.advance(1)
        assert (copy.refused, machine.refused, await address(one)) == ("copied", "", FIRST)
        assert machine.made.copied_by == SECOND
        await machine.stop()

    replica_site.run(body, "one", "two")


def test_every_replica_tells_a_machine_of_its_copy() -> None:
    """It registers at one, which learns of the copy, and holds at the other."""

    async def body(s: Site) -> None:
        one, two = s.worlds["one"], s.worlds["two"]
        machine, copy = Machine(one, "boot-a", FIRST), Machine(one, "boot-b", SECOND)
        await machine.join()
        await settle()
        machine.holds_at = two
        await machine.start()
        await s.clock.advance(1)
        await copy.start()
        await s.clock.advance(1)
        assert (copy.refused, machine.refused, await address(one)) == ("copied", "", FIRST)
        key, caller = Key("faces", machine.made.name), Caller(FACE, SECRET, machine.mark)
        assert machine.made.copied_by == SECOND
        assert (await two.registry.hold(caller, key, "", 60)).copied_by == SECOND
        assert two.replicas.holds(key) and not one.replicas.holds(key), "the one that hears it, not the one that knew first"
        await machine.stop()
        third = await s.start("three")
        await s.kill("one")
        await s.kill("two")
        assert (await third.registry.hold(caller, key, "", 60)).copied_by == SECOND
        await s.clock.advance(TOLD_SECONDS, step=TOLD_SECONDS)
        assert third.registry.holders.copied_by(third.fleet.records[key]) == ""

    replica_site.run(body, "one", "two")


def test_a_replica_that_has_never_heard_the_machine_takes_it() -> None:
    async def body(s: Site) -> None:
        machine = Machine(s.worlds["one"], "boot-a", FIRST)
        await machine.start()
        await s.clock.advance(1)
        await machine.stop()
        machine.world = s.worlds["two"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await machine.call()
        await machine.start()
        assert (machine.refused, machine.made.copied_by) == ("", "")
        await machine.stop()

    replica_site.run(body, "one", "two")


@pytest.mark.parametrize("times", [1, 3])
def test_a_replica_that_does_not_know_the_latest_registration_yet_takes_its_machine(times: int) -> None:
    """It registers at one, and holds at the other, which reads of it on the machine's Lease a moment later."""

    async def body(s: Site) -> None:
        one, two = s.worlds["one"], s.worlds["two"]
        machine = Machine(one, "boot-a", FIRST)
        await machine.join()
        await settle()
        for _ in range(times):
            await machine.join()
        machine.world = two
        held = asyncio.create_task(machine.call())
        await settle()
        await s.clock.advance(1)
        assert not held.done() or held.exception() is None
        held.cancel()
        assert two.replicas.annotation(Key("faces", machine.made.name), HOLDER).startswith(f"{machine.mark} ")

    replica_site.run(body, "one", "two")


def test_a_machine_that_was_overtaken_is_told_by_a_replica_that_has_never_heard_of_it() -> None:
    """Both were resumed from one snapshot, so that the boot id does not tell whose mark that is."""

    async def body(s: Site) -> None:
        machine, copy = Machine(s.worlds["one"], "boot-a", FIRST), Machine(s.worlds["one"], "boot-a", SECOND)
        await machine.join()
        copy.mark = machine.mark
        await s.clock.advance(10)
        await copy.join()
        await settle()
        machine.world = await s.start("two")
        with refused("overtaken"):
            await machine.call()
        await copy.call()

    replica_site.run(body, "one")
