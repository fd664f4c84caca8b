"""What the controller does when time passes or objects change, on the embedded store and a clock that stands still."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from controller.embedded_store import EmbeddedStore
from controller.manifest import GROUP_API, ExternalGroup
from controller.model import Key
from controller.registry import Caller
from controller.store import Collection
from harness.errors import TemporaryError
from harness.values import SpiffeId, parse_address
from tests.controller_support import TRUST_DOMAIN, group, settle
from tests.unit.controller_world import FACE, World, refused, run, world


def test_silence_is_not_ready_then_gone() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.say(made, 1)
        await w.clock.advance(29.5)
        assert (await w.workload(made)).ready
        await w.clock.advance(1)
        condition = (await w.workload(made)).status.condition("Ready")
        assert condition is not None and (condition.status, condition.reason) == ("False", "Unreachable")
        await w.say(made, 2)
        assert (await w.workload(made)).ready
        await w.clock.advance(899)
        assert await w.names() == {made.name}
        await w.clock.advance(2)
        assert await w.names() == set()
        assert {e.reason for e in w.store.events} == {"Joined", "Unreachable", "Expired"}

    run(body)


def test_a_partition_of_a_fleet_marks_only_who_does_not_answer() -> None:
    async def body(w: World) -> None:
        ports = [4243] + [4143] * 11
        made = [await w.join(f"m{n}", f"192.0.2.{n + 1}", inbound_port=port) for n, port in enumerate(ports)]
        w.proxies = {parse_address("192.0.2.1"): 4243}
        for one in made:
            await w.say(one, 1)
        w.answering = {parse_address(f"192.0.2.{n + 1}") for n in range(11)}
        await w.clock.advance(130)
        assert all([(await w.workload(one)).ready for one in made])
        await w.clock.advance(30)
        assert [(await w.workload(one)).ready for one in made] == [True] * 11 + [False]

    run(body)


def test_a_restarted_controller_marks_nobody_who_reports() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.say(made, 7)
        async with world(w.store) as second:
            await second.clock.advance(20)
            await second.say(made, 8)
            await second.clock.advance(20)
            assert (await second.workload(made)).ready
            await second.clock.advance(15)
            assert not (await second.workload(made)).ready

    run(body)


def test_a_group_edit_reaches_workloads_and_those_who_wait() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.say(made, 1)
        key = Key("faces", made.name)
        waiting = asyncio.create_task(w.registry.hold(Caller(FACE, made.secret), key, made.version, 60))
        await settle()
        assert not waiting.done()
        await w.edit(probes=[{"tcpSocket": {"port": 9}}], leaseSeconds=5)
        told = await asyncio.wait_for(waiting, 10)
        assert told.version != made.version and told.lease_seconds == 5 and told.probes[0].tcp_socket is not None
        assert told.secret is None
        edited = group()
        template = dataclasses.replace(
            edited.spec.template, metadata=dataclasses.replace(edited.spec.template.metadata, labels={"service": "new"})
        )
        old = await w.store.buoyant_groups.get(Key("faces", "face"))
        await w.store.buoyant_groups.replace(dataclasses.replace(old, spec=dataclasses.replace(old.spec, template=template)))
        await settle()
        assert (await w.workload(made)).metadata.labels["service"] == "new"
        assert (await w.workload(made)).ready
        await w.clock.advance(6)
        assert not (await w.workload(made)).ready  # the new lease counts

    run(body)


def test_a_newer_wait_ends_the_older() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        key = Key("faces", made.name)
        first = asyncio.create_task(w.registry.hold(Caller(FACE, made.secret), key, made.version, 60))
        await settle()
        second = asyncio.create_task(w.registry.hold(Caller(FACE, made.secret), key, made.version, 0.2))
        assert (await asyncio.wait_for(first, 10)).version == made.version
        assert (await second).version == made.version

    run(body)


def test_a_wait_renews_the_lease_and_ends_before_it_does() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        key = Key("faces", made.name)
        await w.say(made, 1)
        for _ in range(10):
            await w.clock.advance(9)
            await w.registry.hold(Caller(FACE, made.secret), key, "", 60)
        assert (await w.workload(made)).ready
        await w.clock.advance(31)
        assert not (await w.workload(made)).ready
        await w.registry.hold(Caller(FACE, made.secret), key, "", 60)  # it is back: its last report stands again
        assert (await w.workload(made)).ready
        await w.edit(leaseSeconds=1)
        version = (await w.registry.hold(Caller(FACE, made.secret), key, "", 60)).version
        await asyncio.wait_for(w.registry.hold(Caller(FACE, made.secret), key, version, 60), 10)

    run(body)


def test_whoever_is_no_longer_admitted_goes() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.edit(admission={"spiffeIDs": ["spiffe://td/other"]})
        assert await w.names() == set()
        with refused("not-registered"):
            await w.say(made, 1)
        with refused("identity-not-allowed"):
            await w.join()

    run(body)


def test_a_deleted_group_takes_its_workloads_along() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        waiting = asyncio.create_task(w.registry.hold(Caller(FACE, made.secret), Key("faces", made.name), made.version, 60))
        await settle()
        await w.store.buoyant_groups.delete(Key("faces", "face"))
        await settle()
        assert await w.names() == set()
        with refused("not-registered"):
            await waiting
        with refused("group-not-found"):
            await w.join()
        await w.store.buoyant_groups.create(group())
        await settle()
        await w.join()

    run(body)


def test_workloads_of_a_group_that_went_while_we_were_away_go_too() -> None:
    async def body(w: World) -> None:
        await w.join()
        other = EmbeddedStore(w.clock)
        other.workloads = w.store.workloads
        async with world(other):
            await settle()
            assert await w.names() == set()

    run(body)


def test_our_own_api_group_goes_first() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.store.groups.create(group(api=GROUP_API, leaseSeconds=7))
        await settle()
        assert (await w.join(secret=made.secret)).lease_seconds == 7
        assert (await w.workload(made)).metadata.owner_references[0].api_version == GROUP_API
        await w.store.groups.delete(Key("faces", "face"))
        await settle()
        assert (await w.workload(made)).metadata.owner_references[0].api_version != GROUP_API

    run(body)


def test_a_group_that_another_of_its_name_goes_before_says_so() -> None:
    """Without a verdict, who wrote it would look for a controller that does not run."""

    async def body(w: World) -> None:
        await w.store.groups.create(group(api=GROUP_API))
        await settle()

        async def accepted(groups: Collection[ExternalGroup]) -> str:
            await w.clock.advance(2)
            await settle()
            conditions = (await groups.get(Key("faces", "face"))).status.conditions
            return next(one.reason for one in conditions if one.type == "Accepted")

        assert await accepted(w.store.groups) == "Valid"
        assert await accepted(w.store.buoyant_groups) == "Shadowed"
        await w.store.groups.delete(Key("faces", "face"))
        assert await accepted(w.store.buoyant_groups) == "Valid"

    run(body)


def test_a_workload_deleted_by_others_is_registered_again() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        waiting = asyncio.create_task(w.registry.hold(Caller(FACE, made.secret), Key("faces", made.name), made.version, 60))
        await settle()
        await w.store.workloads.delete(Key("faces", made.name))
        await settle()
        with refused("not-registered"):
            await waiting
        assert (await w.join(secret=made.secret)).name == made.name

    run(body)


def test_what_the_store_could_not_take_is_written_later() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        w.workloads.down = True
        with pytest.raises(TemporaryError):
            await w.say(made, 1)
        with pytest.raises(TemporaryError):
            await w.join("two", "192.0.2.2")
        with pytest.raises(TemporaryError):
            await w.join(ip="192.0.2.3", secret=made.secret)
        w.workloads.down = False
        await w.say(made, 2)
        w.workloads.down = True
        await w.clock.advance(31)
        assert (await w.workload(made)).ready
        w.workloads.down = False
        await w.clock.advance(0.25)
        assert not (await w.workload(made)).ready
        await w.join("two", "192.0.2.3")  # neither refused registration holds anything

    run(body)


def test_warnings_of_a_kind_do_not_flood_a_group() -> None:
    async def body(w: World) -> None:
        for number in range(100):
            with refused("identity-not-allowed"):
                await w.join(identity=SpiffeId(TRUST_DOMAIN, f"/x{number}"))
        assert len(w.store.events) == 1

    run(body)
