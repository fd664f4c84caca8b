"""Several replicas on one store and a clock that stands still: who judges whom, and what a replica's end changes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from controller.admission import RefusedError
from controller.embedded_store import EmbeddedStore
from controller.manifest import GROUP_API, stored_group
from controller.model import Key
from controller.replicas import LEASE_SECONDS, RENEW_SECONDS
from harness.errors import TemporaryError
from harness.messages import Reason, Registration
from tests.controller_support import StandingClock, group, settle
from tests.unit.test_controller_registry import FACE, World, refused


class Site:
    """One store, and replicas that can be killed."""

    def __init__(self) -> None:
        self.clock = StandingClock()
        self.store = EmbeddedStore(self.clock)
        self.worlds: dict[str, World] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str) -> World:
        made = World(self.store, name, self.clock)
        self.worlds[name] = made
        self._tasks[name] = asyncio.create_task(made.upkeep.run())
        await made.upkeep.ready.wait()
        await settle()
        return made

    async def kill(self, name: str) -> None:
        task = self._tasks.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        del self.worlds[name]

    def leaders(self) -> list[str]:
        return [name for name, made in self.worlds.items() if made.replicas.leads]


@contextlib.asynccontextmanager
async def site(*names: str) -> AsyncIterator[Site]:
    made = Site()
    await made.store.groups.create(group(api=GROUP_API))
    try:
        async with asyncio.timeout(30):
            for name in names:
                await made.start(name)
            yield made
    finally:
        for name in tuple(made.worlds):
            await made.kill(name)


def run(body: Callable[[Site], Awaitable[None]], *names: str) -> None:
    async def main() -> None:
        async with site(*names) as made:
            await body(made)

    asyncio.run(main())


async def transitions(s: Site) -> list[tuple[str, bool]]:
    return [(item.metadata.name, item.ready) for item in (await s.store.workloads.list()).items]


async def hold(world: World, made: Registration) -> None:
    await world.registry.hold(FACE, Key(made.namespace, made.name), made.secret, "", 60)


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


def test_a_group_is_edited_deleted_and_made_again_under_two_replicas() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]
        first, second = await a.join("one"), await b.join("two", "192.0.2.2")
        await s.store.groups.delete(Key("faces", "face"))
        await settle(200)
        assert await a.names() == set()
        await s.store.groups.create(group(api=GROUP_API))
        await settle()
        assert (await b.join("one", secret=first.secret)).name == first.name
        assert (await a.join("two", "192.0.2.2", secret=second.secret)).name == second.name

    run(body, "a", "b")


def test_owners_of_machines_that_are_gone_do_not_stay() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]
        left, deleted = await a.join("one"), await b.join("two", "192.0.2.2")
        await settle()
        await a.registry.leave(FACE, Key("faces", left.name), left.secret)
        await s.store.workloads.delete(Key("faces", deleted.name))
        await s.clock.advance(130)
        assert {lease.metadata.name for lease in (await s.store.leases.list()).items} == {"leader", "replica.a", "replica.b"}

    run(body, "a", "b")


def test_what_a_machine_says_of_its_software_is_on_its_lease_and_wakes_nobody() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]

        async def said() -> tuple[str, str]:
            await settle(200)
            lease = await s.store.leases.get(Key("meshexp", f"machine.faces.{made.name}"))
            return lease.holder, lease.metadata.annotations.get("workload.meshexp.io/versions", "")

        made = await a.join(versions={"harness": "1.0"})
        assert await said() == ("a", "harness=1.0")
        written = (await a.workload(made)).metadata.resource_version
        await a.join(versions={"harness": "1.1"}, secret=made.secret)
        assert await said() == ("a", "harness=1.1")
        await hold(b, made)
        assert await said() == ("b", "harness=1.1")
        before = (await s.store.leases.list()).resource_version
        await b.join(versions={"harness": "1.1"}, secret=made.secret)
        await settle(200)
        assert (await s.store.leases.list()).resource_version == before
        assert (await a.workload(made)).metadata.resource_version == written

    run(body, "a", "b")


def test_two_machines_with_one_address_at_two_replicas_at_once() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]
        await asyncio.gather(a.join("one"), b.join("two"), return_exceptions=True)
        await settle(200)
        assert len(await a.names()) == 1

    run(body, "a", "b")


def test_one_machine_at_two_replicas_at_once() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]
        secret = "s" * 43
        outcomes = await asyncio.gather(a.join("one", secret=secret), b.join("one", secret=secret), return_exceptions=True)
        assert all(isinstance(o, Registration | TemporaryError) for o in outcomes)
        await settle(200)
        again = [await w.join("one", secret=secret) for w in (a, b)]
        assert len({made.name for made in again}) == 1 == len(await a.names())

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


@pytest.mark.parametrize("led", [True, False])
def test_the_last_place_given_by_two_replicas_at_once(led: bool) -> None:
    """Also while nobody leads: each replica looks at what it has let in itself."""

    async def body(s: Site) -> None:
        old = await s.store.groups.get(Key("faces", "face"))
        limited = dataclasses.replace(group(api=GROUP_API, admission={"maximum": 4}), metadata=old.metadata)
        await s.store.groups.replace(limited)
        if not led:
            await s.kill("a")
            assert s.leaders() == []
        a, b = list(s.worlds.values())[:2]
        kept = [await a.join("m0", "192.0.2.1"), await b.join("m1", "192.0.2.2")]
        asked = [w.join(f"m{n}", f"192.0.2.{n}") for n in range(3, 9) for w in ((a, b)[n % 2],)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        let_in = [made for made in outcomes if isinstance(made, Registration)]
        assert len(let_in) == 2
        assert {o.code for o in outcomes if isinstance(o, RefusedError)} == {"quota-exceeded"}
        names = await a.names()
        assert names == {made.name for made in kept + let_in}
        assert any(event.reason == "QuotaExceeded" and event.warning for event in s.store.events)
        again = dataclasses.replace(group(api=GROUP_API, admission={"maximum": 1}), metadata=limited.metadata)
        current = await s.store.groups.get(Key("faces", "face"))
        await s.store.groups.replace(dataclasses.replace(again, metadata=current.metadata))
        await settle(200)
        assert await a.names() == names  # a lowered maximum sends nobody away

    run(body, "a", "b", "c")


def test_who_used_an_invitation_is_forgotten_when_its_time_is_long_over() -> None:
    async def body(s: Site) -> None:
        async def used() -> set[str]:
            names = {lease.metadata.name for lease in (await s.store.leases.list()).items}
            return {name for name in names if name.startswith("used.")}

        replicas = s.worlds["b"].replicas  # not the leader
        now = s.clock.wall()
        assert await replicas.use("faces.face.short", "one", now + 60) and await replicas.use(
            "faces.face.long", "one", now + 9000
        )
        assert not await s.worlds["a"].replicas.use("faces.face.short", "two", now + 60)
        await s.clock.advance(60 + 3600 - 5, 5)
        assert await used() == {"used.faces.face.short", "used.faces.face.long"}
        await s.clock.advance(70)
        assert await used() == {"used.faces.face.long"}

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


class Lost:
    """A store that does not answer."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        async def fail(*_: object) -> None:
            raise TemporaryError("lost")

        return fail


def test_the_status_of_a_group_follows_its_workloads_and_is_written_on_change_only() -> None:
    async def body(s: Site) -> None:
        a, b = s.worlds["a"], s.worlds["b"]

        async def status() -> tuple[str, str, dict[str, str]]:
            await s.clock.advance(2)
            found = (await s.store.groups.get(Key("faces", "face"))).status
            assert found.observed_generation == 1
            return found.ready, found.probe, {c.type: f"{c.status} {c.reason} {c.message}".strip() for c in found.conditions}

        empty = {"Accepted": "True Valid", "Ready": "False NoWorkloads no machine has joined"}
        assert await status() == ("0/0", "http :8000/ready", empty)
        one, two = await b.join("one"), await a.join("two", "192.0.2.2")
        await b.say(one, 1)
        assert (await status())[::2] == ("1/2", {"Accepted": "True Valid", "Ready": "False SomeNotReady 1 Starting"})
        await a.say(two, 1)
        assert (await status())[::2] == ("2/2", {"Accepted": "True Valid", "Ready": "True AllReady"})
        version = (await s.store.groups.list()).resource_version
        for sequence in range(2, 9):
            await s.clock.advance(5)
            await b.say(one, sequence)
            await a.say(two, sequence)
        assert (await s.store.groups.list()).resource_version == version
        await b.say(one, 99, False, Reason.PROBE_FAILED)
        assert (await status())[2]["Ready"] == "False SomeNotReady 1 ProbeFailed"
        assert any(e.reason == "ProbeFailed" and e.warning and e.uid for e in s.store.events)

    run(body, "a", "b")


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


def test_a_group_that_became_invalid_keeps_its_machines_and_says_so() -> None:
    async def body(s: Site) -> None:
        a = s.worlds["a"]
        made = await a.join()
        old = await s.store.groups.get(Key("faces", "face"))
        broken = stored_group(old.to_object() | {"spec": {"probes": [{}]}})
        assert "exactly one" in broken.fault
        fixed = await s.store.groups.replace(broken)
        await s.clock.advance(2)
        assert await a.names() == {made.name}
        await a.join("two", "192.0.2.2")  # as the last good spec has it
        conditions = {c.type: c for c in (await s.store.groups.get(Key("faces", "face"))).status.conditions}
        assert conditions["Accepted"].status == "False" and "exactly one" in conditions["Accepted"].message
        again = await s.start("b")  # it has never seen a good spec
        with pytest.raises(TemporaryError, match="exactly one"):
            await again.join("three", "192.0.2.3")
        current = await s.store.groups.get(Key("faces", "face"))
        await s.store.groups.replace(dataclasses.replace(fixed, metadata=current.metadata, fault="", spec=old.spec))
        await s.clock.advance(2)
        await again.join("three", "192.0.2.3")
        assert (await s.store.groups.get(Key("faces", "face"))).status.conditions[0].status == "True"

    run(body, "a")


def test_what_others_write_on_a_workload_is_left_and_not_fought_over() -> None:
    async def body(s: Site) -> None:
        a = s.worlds["a"]
        made = await a.join()
        current = await a.workload(made)
        labels = current.metadata.labels | {"theirs": "x"}
        await s.store.workloads.replace(
            dataclasses.replace(current, metadata=dataclasses.replace(current.metadata, labels=labels))
        )
        await settle()
        version = (await s.store.workloads.list()).resource_version
        await a.join(secret=made.secret)
        assert (await s.store.workloads.list()).resource_version == version

    run(body, "a")
