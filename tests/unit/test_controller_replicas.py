"""Several replicas on one store and a clock that stands still: who judges whom, and what a replica's end changes."""

from __future__ import annotations

import asyncio

import pytest

from controller.model import Key
from controller.registry import Caller
from controller.replicas import LEASE_SECONDS, RENEW_SECONDS
from tests.controller_support import settle
from tests.unit.controller_world import FACE, refused
from tests.unit.replica_site import Lost, Site, hold, run, transitions


def test_one_leads_and_another_follows_when_it_dies() -> None:
    async def body(s: Site) -> None:
        assert s.leaders() == ["a"]
        await s.clock.advance(60)
        assert s.leaders() == ["a"]
        await s.kill("a")
        await s.clock.advance(LEASE_SECONDS - RENEW_SECONDS - 0.5)
        assert s.leaders() == []
        await s.clock.advance(2 * RENEW_SECONDS + 0.5)
        assert len(s.leaders()) == 1

    run(body, "a", "b", "c")


def test_one_that_resigns_is_followed_at_the_next_renewal() -> None:
    async def body(s: Site) -> None:
        await s.worlds["a"].replicas.resign()
        await s.kill("a")
        await s.clock.advance(RENEW_SECONDS + 0.25)
        assert s.leaders() == ["b"]

    run(body, "a", "b")


def test_any_replica_takes_machines_and_knows_those_of_the_others() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]
        first, second = await a.join("one"), await b.join("two", "192.0.2.2")
        await settle()
        assert set(a.fleet.records) == set(b.fleet.records) and len(a.fleet.records) == 2
        with refused("address-taken"):
            await a.join("three", "192.0.2.2")
        with refused("name-taken"):
            await b.join("one", "192.0.2.3")
        assert (await b.join("one", secret=first.secret)).name == first.name
        await a.say(second, 1)
        assert (await a.workload(second)).ready

    run(body, "a", "b")


def test_a_machine_that_moved_is_not_judged_by_the_replica_it_left() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]
        made = await a.join()
        await a.say(made, 1)
        for _ in range(12):
            await s.clock.advance(9)
            await hold(b, made)
            assert (await b.workload(made)).ready
        key = Key(made.namespace, made.name)
        assert b.replicas.holds(key) and not a.replicas.holds(key) and key not in a.fleet.leases
        await s.clock.advance(31)
        assert not (await b.workload(made)).ready

    run(body, "a", "b")


def test_the_machines_of_a_dead_replica_have_a_lease_to_turn_to_another() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]
        turning, silent = await b.join("one"), await b.join("two", "192.0.2.2")
        for made in (turning, silent):
            await b.say(made, 1)
        await s.kill("b")
        await s.clock.advance(LEASE_SECONDS + RENEW_SECONDS)
        await hold(a, turning)
        await s.clock.advance(20)
        await hold(a, turning)
        assert {ready for _, ready in await transitions(s)} == {True}
        await s.clock.advance(25)
        await hold(a, turning)
        assert (await a.workload(turning)).ready and not (await a.workload(silent)).ready
        await s.clock.advance(900)
        assert silent.name not in await a.names()

    run(body, "a", "b")


def test_the_death_of_the_leader_under_load_marks_nobody_and_loses_nothing() -> None:
    async def body(s: Site) -> None:
        b = s.worlds["b"]
        members = [await s.worlds["ab"[n % 2]].join(f"m{n}", f"192.0.2.{n + 1}") for n in range(40)]
        for n, made in enumerate(members):
            await s.worlds["ab"[n % 2]].say(made, 1)
        seen = s.store.workloads.watch((await s.store.workloads.list()).resource_version)
        flips: list[str] = []

        async def count() -> None:
            async for change in seen:
                flips.append(f"{change.type.value} {change.item.metadata.name} {change.item.ready}")

        counting = asyncio.create_task(count())
        await s.kill("a")
        for _ in range(12):
            await s.clock.advance(9)
            for made in members:
                await hold(b, made)
        assert s.leaders() == ["b"] and flips == []
        assert all(b.replicas.holds(Key(m.namespace, m.name)) for m in members)
        counting.cancel()

    run(body, "a", "b")


def test_owners_of_machines_that_are_gone_do_not_stay() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]
        left, deleted = await a.join("one"), await b.join("two", "192.0.2.2")
        await settle()
        await a.registry.leave(Caller(FACE, left.secret), Key("faces", left.name))
        await s.store.workloads.delete(Key("faces", deleted.name))
        await s.clock.advance(130)
        assert {lease.metadata.name for lease in (await s.store.leases.list()).items} == {"leader", "replica.a", "replica.b"}

    run(body, "a", "b")


def test_a_fleet_over_two_replicas_is_guarded_as_one() -> None:
    """Neither replica's share is a fleet of its own; together they are, and all of it falls silent at once."""

    async def body(s: Site) -> None:
        members = [await s.worlds["ab"[n % 2]].join(f"m{n}", f"192.0.2.{n + 1}") for n in range(14)]
        for n, made in enumerate(members):
            await s.worlds["ab"[n % 2]].say(made, 1)
        await s.clock.advance(100)
        assert {ready for _, ready in await transitions(s)} == {True}
        await s.clock.advance(60)  # and none answers when it is dialled
        assert {ready for _, ready in await transitions(s)} == {False}

    run(body, "a", "b")


def test_half_of_a_fleet_over_two_replicas_may_fail_on_its_own() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]
        silent = [await a.join(f"m{n}", f"192.0.2.{n + 1}") for n in range(6)]
        heard = [await b.join(f"m{n}", f"192.0.2.{n + 1}") for n in range(6, 14)]
        for n, made in enumerate(silent + heard):
            await (a if n < 6 else b).say(made, 1)
        for _ in range(4):
            await s.clock.advance(8)
            for made in heard:
                await hold(b, made)
        assert sorted(ready for _, ready in await transitions(s)) == [False] * 6 + [True] * 8

    run(body, "a", "b")


def test_while_the_store_is_lost_nobody_is_marked_nor_just_after() -> None:
    async def body(s: Site) -> None:
        a = s.worlds["a"]
        made = [await a.join(f"m{n}", f"192.0.2.{n + 1}") for n in range(3)]
        for one in made:
            await a.say(one, 1)
        leases = a.replicas._leases
        a.replicas._leases = Lost()  # type: ignore[assignment]
        await s.clock.advance(200)
        assert {ready for _, ready in await transitions(s)} == {True}
        a.replicas._leases = leases
        await s.clock.advance(25)
        assert {ready for _, ready in await transitions(s)} == {True}
        await hold(a, made[0])
        await s.clock.advance(15)
        assert [ready for _, ready in await transitions(s)] == [True, False, False]

    run(body, "a")


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_replica_that_starts_again_under_its_name_goes_on(name: str) -> None:
    async def body(s: Site) -> None:
        made = await s.worlds[name].join()
        await s.worlds[name].say(made, 1)
        await s.kill(name)
        again = await s.start(name)
        await s.clock.advance(10)
        await hold(again, made)
        assert (await again.workload(made)).ready and again.replicas.holds(Key(made.namespace, made.name))
        await s.clock.advance(31)
        assert not (await again.workload(made)).ready

    run(body, "a", "b")
