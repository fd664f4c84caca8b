"""What machines ask for and what happens meanwhile, on the embedded store and a clock that stands still."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from controller.admission import RefusedError
from controller.embedded_store import EmbeddedCollection, EmbeddedStore
from controller.fleet import Fleet
from controller.manifest import GROUP_API, ExternalGroup
from controller.model import ExternalWorkload, Key
from controller.registry import Registry
from controller.rendering import Times
from controller.replicas import Replicas
from controller.upkeep import Upkeep
from harness.errors import TemporaryError
from harness.messages import ClusterFacts, Reason, Registration, RegistrationRequest, StateReport
from harness.values import IPAddress, SpiffeId, parse_address
from tests.controller_support import TRUST_DOMAIN, StandingClock, group, settle

FACE = SpiffeId(TRUST_DOMAIN, "/face")


class Failing(EmbeddedCollection[ExternalWorkload]):
    """A store of workloads whose writes fail while it is down."""

    down = False
    writes = 0

    async def create(self, item: ExternalWorkload) -> ExternalWorkload:
        self._check()
        return await super().create(item)

    async def replace(self, item: ExternalWorkload) -> ExternalWorkload:
        self._check()
        return await super().replace(item)

    async def patch_status(self, item: ExternalWorkload) -> ExternalWorkload:
        self._check()
        return await super().patch_status(item)

    def _check(self) -> None:
        self.writes += 1
        if self.down:
            raise TemporaryError("the store is down")


class World:
    def __init__(self, store: EmbeddedStore | None = None, name: str = "one", clock: StandingClock | None = None) -> None:
        self.clock = clock or StandingClock()
        self.store = store or EmbeddedStore(self.clock)
        self.workloads = Failing(iter(range(1000, 100_000)), self.clock)
        self.store.workloads = self.workloads if store is None else store.workloads
        self.replicas = Replicas(self.store.leases, self.clock, name, "meshexp")
        self.fleet = Fleet(self.clock, Times(lease=30, expiry=900), ClusterFacts(), self.replicas.holds)
        self.registry = Registry(self.store, self.fleet, TRUST_DOMAIN, self.replicas)
        self.answering: set[IPAddress] = set()
        self.proxies: dict[IPAddress, int] = {}
        self.upkeep = Upkeep(self.registry, self._dial)

    async def _dial(self, address: IPAddress, port: int) -> bool:
        return address in self.answering and port == self.proxies.get(address, 4143)

    async def join(self, instance: str = "one", ip: str = "192.0.2.1", identity: SpiffeId = FACE, **request: Any) -> Registration:
        fields = {"group": "face", "namespace": "faces", "hostname": "face-1", **request}
        message = RegistrationRequest(instance_id=instance, addresses=(parse_address(ip),), **fields)
        return (await self.registry.register(identity, message))[0]

    async def say(self, made: Registration, sequence: int, ready: bool = True, reason: Reason = Reason.READY) -> None:
        await self.registry.report(
            made.identity, Key(made.namespace, made.name), made.secret, StateReport(sequence, ready, reason)
        )

    async def workload(self, made: Registration) -> ExternalWorkload:
        return await self.store.workloads.get(Key(made.namespace, made.name))

    async def names(self) -> set[str]:
        return {item.metadata.name for item in (await self.store.workloads.list()).items}

    async def edit(self, **spec: Any) -> ExternalGroup:
        old = await self.store.buoyant_groups.get(Key("faces", "face"))
        new = await self.store.buoyant_groups.replace(dataclasses.replace(group(**spec), metadata=old.metadata))
        await settle()
        return new


@contextlib.asynccontextmanager
async def world(store: EmbeddedStore | None = None, **spec: Any) -> AsyncIterator[World]:
    made = World(store)
    if store is None:
        await made.store.buoyant_groups.create(group(**spec))
    task = asyncio.create_task(made.upkeep.run())
    await made.upkeep.ready.wait()
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def run(body: Callable[[World], Awaitable[None]], **spec: Any) -> None:
    async def main() -> None:
        async with world(**spec) as made:
            await body(made)

    asyncio.run(main())


@contextlib.contextmanager
def refused(code: str) -> Any:
    with pytest.raises(RefusedError) as caught:
        yield
    assert caught.value.code == code, caught.value.message


def test_from_joining_to_leaving() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        assert made.secret and made.identity == FACE
        assert not (await w.workload(made)).ready
        await w.say(made, 1, False, Reason.STARTING)
        await w.say(made, 2)
        assert (await w.workload(made)).ready
        await w.say(made, 3, False, Reason.DRAINING)
        condition = (await w.workload(made)).status.condition("Ready")
        assert condition is not None and (condition.status, condition.reason) == ("False", "Draining")
        await w.registry.leave(FACE, Key("faces", made.name), made.secret)
        assert await w.names() == set()
        with refused("not-registered"):
            await w.say(made, 4)

    run(body)


def test_reports_that_flip_nothing_write_nothing() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.say(made, 1)
        before = w.workloads.writes
        for sequence in range(2, 50):
            await w.clock.advance(5)
            await w.say(made, sequence)
        assert w.workloads.writes == before == 2  # its creation and its one flip

    run(body)


def test_an_older_report_never_overwrites_a_newer() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.say(made, 5, False)
        for sequence in (5, 4, -1):
            with refused("stale-sequence"):
                await w.say(made, sequence)
        with refused("stale-sequence"):
            await w.say(made, 2**63)
        assert not (await w.workload(made)).ready
        await w.say(made, 6)
        assert (await w.workload(made)).ready

    run(body)


def test_same_machine_same_name_after_a_reboot_with_a_new_address() -> None:
    async def body(w: World) -> None:
        first = await w.join()
        await w.say(first, 9)
        again = await w.join(ip="192.0.2.77", secret=first.secret)
        assert (again.name, again.secret) == (first.name, first.secret)
        workload = await w.workload(again)
        assert [str(ip.ip) for ip in workload.spec.workload_ips] == ["192.0.2.77"]
        assert workload.ready  # until it says otherwise
        await w.say(again, 1, False)
        assert not (await w.workload(again)).ready
        await w.join("two", "192.0.2.1")  # the old address is free

    run(body)


def test_a_registration_that_changes_nothing_is_not_written() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        before = w.workloads.writes
        await w.join(secret=made.secret)
        assert w.workloads.writes == before

    run(body)


def test_a_live_name_needs_its_secret() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        for secret in (None, "", "x" * 43):
            with refused("name-taken"):
                await w.join(ip="192.0.2.2", secret=secret)
        for call in (
            w.registry.leave(FACE, Key("faces", made.name), "x" * 43),
            w.registry.leave(FACE, Key("faces", made.name), None),
        ):
            with refused("secret-mismatch"):
                await call
        other = SpiffeId(TRUST_DOMAIN, "/faces/face")
        with refused("identity-not-allowed"):
            await w.registry.leave(other, Key("faces", made.name), made.secret)

    run(body)


def test_a_name_is_free_once_its_lease_has_ended() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.say(made, 1)
        await w.clock.advance(29)
        with refused("name-taken"):
            await w.join()
        await w.clock.advance(2)
        again = await w.join(ip="192.0.2.9")
        assert again.name == made.name and again.secret != made.secret
        with refused("secret-mismatch"):
            await w.say(made, 2)

    run(body)


def test_an_offered_secret_survives_a_lost_answer() -> None:
    async def body(w: World) -> None:
        first = await w.join(secret="s" * 43)
        assert first.secret == "s" * 43
        assert (await w.join(secret="s" * 43)).name == first.name

    run(body)


def test_a_new_identity_is_a_new_object() -> None:
    async def body(w: World) -> None:
        first = await w.join()
        other = SpiffeId(TRUST_DOMAIN, "/faces/face")
        second = await w.join(identity=other, secret=first.secret)
        assert second.name == f"{first.name}-g2" and second.server_name != first.server_name
        assert await w.names() == {second.name}
        third = await w.join(identity=other, secret=second.secret)
        assert third.name == second.name
        with refused("not-registered"):
            await w.say(first, 1)

    run(body)


def test_where_the_proxy_of_a_machine_is_stands_in_its_object() -> None:
    """Linkerd's peers dial the port of this name, and 4143 without one. Linkerd does not pass on a change of it."""

    async def body(w: World) -> None:
        first = await w.join()
        assert [port.name for port in (await w.workload(first)).spec.ports] == ["http"]
        second = await w.join(inbound_port=4243, secret=first.secret)
        assert second.name == f"{first.name}-g2"
        ports = {port.name: (port.port, port.protocol) for port in (await w.workload(second)).spec.ports}
        assert ports == {"http": (8000, "TCP"), "linkerd-proxy": (4243, "TCP")}
        assert [port.name for port in second.template.ports] == ["http"], "nothing that the machine would redirect"
        again = await w.join(inbound_port=4243, secret=second.secret)
        assert again.name == second.name
        await w.edit(probes=[])
        assert (await w.workload(second)).inbound_port == 4243, "also after the group has changed"

    run(body)


def test_two_workloads_of_one_machine_have_proxies_of_their_own() -> None:
    async def body(w: World) -> None:
        await w.store.buoyant_groups.create(
            group("smiley", template={"metadata": {"labels": {}}, "ports": [{"name": "http", "port": 8001}]})
        )
        await settle()
        smiley = SpiffeId(TRUST_DOMAIN, "/smiley")
        face = await w.join(inbound_port=4243)
        with refused("address-taken"):
            await w.join("two", identity=smiley, group="smiley", inbound_port=4243)
        other = await w.join("two", identity=smiley, group="smiley", inbound_port=4343)
        assert await w.names() == {face.name, other.name}
        with refused("malformed"):
            await w.join("three", "192.0.2.9", inbound_port=8000)

    run(body)


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


def test_two_workloads_never_share_an_address() -> None:
    async def body(w: World) -> None:
        made = await w.join("one")
        with refused("address-taken"):
            await w.join("two")
        await w.clock.advance(31)  # the holder has fallen silent
        second = await w.join("two")
        assert await w.names() == {second.name}
        with refused("not-registered"):
            await w.say(made, 1)
        assert any(e.warning and e.reason == "AddressTaken" for e in w.store.events)

    run(body)


def test_two_at_once_for_one_address() -> None:
    async def body(w: World) -> None:
        outcomes = await asyncio.gather(w.join("one"), w.join("two"), w.join("one"), return_exceptions=True)
        codes = sorted(getattr(o, "code", "joined") for o in outcomes)
        assert codes == ["address-taken", "joined", "name-taken"]

    run(body)


def test_a_hand_made_workload_keeps_its_address_and_name() -> None:
    async def body(w: World) -> None:
        made = await w.join("one")
        theirs = await w.workload(made)
        await w.registry.leave(FACE, theirs.metadata.key, made.secret)
        await w.store.workloads.create(dataclasses.replace(theirs, metadata=dataclasses.replace(theirs.metadata, annotations={})))
        await settle()
        with refused("address-taken"):
            await w.join("two")
        with refused("name-taken"):
            await w.join("one", "192.0.2.2")
        assert await w.names() == {made.name}
        await w.join("two", "192.0.2.2")  # the refused one has left nothing behind

    run(body)


def test_quota_counts_the_living_and_replaces_the_silent() -> None:
    async def body(w: World) -> None:
        first, second = await w.join("one"), await w.join("two", "192.0.2.2")
        with refused("quota-exceeded"):
            await w.join("three", "192.0.2.3")
        await w.clock.advance(20)
        await w.say(second, 1)
        await w.clock.advance(15)
        third = await w.join("three", "192.0.2.3")
        assert await w.names() == {second.name, third.name}
        await w.join("two", "192.0.2.4", secret=second.secret)
        assert first.name not in await w.names()

    run(body, admission={"maximum": 2})


def test_a_group_edit_reaches_workloads_and_those_who_wait() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        await w.say(made, 1)
        key = Key("faces", made.name)
        waiting = asyncio.create_task(w.registry.hold(FACE, key, made.secret, made.version, 60))
        await settle()
        assert not waiting.done()
        await w.edit(probes=[{"tcpSocket": {"port": 9}}], leaseSeconds=5)
        told = await asyncio.wait_for(waiting, 1)
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
        first = asyncio.create_task(w.registry.hold(FACE, key, made.secret, made.version, 60))
        await settle()
        second = asyncio.create_task(w.registry.hold(FACE, key, made.secret, made.version, 0.2))
        assert (await asyncio.wait_for(first, 0.1)).version == made.version
        assert (await second).version == made.version

    run(body)


def test_a_wait_renews_the_lease_and_ends_before_it_does() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        key = Key("faces", made.name)
        await w.say(made, 1)
        for _ in range(10):
            await w.clock.advance(9)
            await w.registry.hold(FACE, key, made.secret, "", 60)
        assert (await w.workload(made)).ready
        await w.clock.advance(31)
        assert not (await w.workload(made)).ready
        await w.registry.hold(FACE, key, made.secret, "", 60)  # it is back: its last report stands again
        assert (await w.workload(made)).ready
        await w.edit(leaseSeconds=1)
        version = (await w.registry.hold(FACE, key, made.secret, "", 60)).version
        await asyncio.wait_for(w.registry.hold(FACE, key, made.secret, version, 60), 1)

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
        waiting = asyncio.create_task(w.registry.hold(FACE, Key("faces", made.name), made.secret, made.version, 60))
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


def test_a_workload_deleted_by_others_is_registered_again() -> None:
    async def body(w: World) -> None:
        made = await w.join()
        waiting = asyncio.create_task(w.registry.hold(FACE, Key("faces", made.name), made.secret, made.version, 60))
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


@pytest.mark.parametrize("hostname", ["a b", "x\n", "ü", "'"])
def test_a_hostname_is_a_hostname(hostname: str) -> None:
    async def body(w: World) -> None:
        with refused("malformed"):
            await w.join(hostname=hostname)

    run(body)


def test_warnings_of_a_kind_do_not_flood_a_group() -> None:
    async def body(w: World) -> None:
        for number in range(100):
            with refused("identity-not-allowed"):
                await w.join(identity=SpiffeId(TRUST_DOMAIN, f"/x{number}"))
        assert len(w.store.events) == 1

    run(body)
