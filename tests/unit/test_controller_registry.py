"""What machines ask the controller for, on the embedded store and a clock that stands still: names, secrets, addresses."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from controller.model import Key
from controller.registry import Caller
from harness.messages import Reason
from harness.values import SpiffeId
from tests.controller_support import TRUST_DOMAIN, group, settle
from tests.unit.controller_world import FACE, World, refused, run


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
        await w.registry.leave(Caller(FACE, made.secret), Key("faces", made.name))
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
            w.registry.leave(Caller(FACE, "x" * 43), Key("faces", made.name)),
            w.registry.leave(Caller(FACE, None), Key("faces", made.name)),
        ):
            with refused("secret-mismatch"):
                await call
        other = SpiffeId(TRUST_DOMAIN, "/face")
        with refused("identity-not-allowed"):
            await w.registry.leave(Caller(other, made.secret), Key("faces", made.name))

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
        other = SpiffeId(TRUST_DOMAIN, "/face")
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
        await w.registry.leave(Caller(FACE, made.secret), theirs.metadata.key)
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


@pytest.mark.parametrize("hostname", ["a b", "x\n", "ü", "'"])
def test_a_hostname_is_a_hostname(hostname: str) -> None:
    async def body(w: World) -> None:
        with refused("malformed"):
            await w.join(hostname=hostname)

    run(body)
