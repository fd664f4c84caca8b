"""Who is who among tenants: no machine of one group takes another's identity, nor the address of one that is silent."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from controller import address_proof, summary
from controller.manifest import GROUP_API
from controller.model import Key
from controller.own_networks import OwnNetworks
from controller.registry import Caller
from harness.messages import Registration
from harness.values import PortRange, SpiffeId, parse_address
from tests.controller_support import TRUST_DOMAIN, group, settle
from tests.unit.controller_world import World, refused, run

SHORT = SpiffeId(TRUST_DOMAIN, "/face")
A = SpiffeId(TRUST_DOMAIN, "/tenant-a/face")
B = SpiffeId(TRUST_DOMAIN, "/tenant-b/face")
PODS = ipaddress.ip_network("10.42.0.0/16")
CLUSTER = OwnNetworks(frozenset([parse_address("192.0.2.250")]), (PODS,))
LEASE = 30.0


async def tenants(w: World, *names: str, **spec: object) -> None:
    for name in names or ("tenant-a", "tenant-b"):
        await w.store.groups.create(group("face", name, GROUP_API, **spec))
    await settle()


async def join(w: World, tenant: str, identity: SpiffeId, **changes: Any) -> Registration:
    return await w.join(identity=identity, **{"instance": tenant, "namespace": tenant, **changes})


async def accepted(w: World, tenant: str, kind: str = summary.ACCEPTED) -> str:
    await w.clock.advance(2)
    condition = (await w.store.groups.get(Key(tenant, "face"))).status.condition(kind)
    return f"{condition.reason} {condition.message}" if condition else ""


# identities


def test_tenant_bs_face_is_not_admitted_by_tenant_as() -> None:
    async def body(w: World) -> None:
        await tenants(w)
        for identity in (SHORT, B):
            with refused("identity-not-allowed"):
                await join(w, "tenant-a", identity)
        await join(w, "tenant-a", A)
        await join(w, "tenant-b", B, ip="192.0.2.2")

    run(body)


def test_the_short_form_is_admitted_with_a_warning_where_one_group_has_the_name() -> None:
    async def body(w: World) -> None:
        await w.store.buoyant_groups.delete(Key("faces", "face"))
        await tenants(w, "tenant-a")
        await join(w, "tenant-a", A)
        assert await accepted(w, "tenant-a") == "Valid "
        await join(w, "tenant-a", SHORT, instance="old", ip="192.0.2.2")
        assert "invite them again as /tenant-a/face" in await accepted(w, "tenant-a")

    run(body)


def test_a_namesake_of_another_tenant_takes_no_member_out() -> None:
    async def body(w: World) -> None:
        await w.store.buoyant_groups.delete(Key("faces", "face"))
        await tenants(w, "tenant-a")
        made = await join(w, "tenant-a", SHORT)
        await tenants(w, "tenant-b")
        await w.say(made, 1)
        assert (await join(w, "tenant-a", SHORT, secret=made.secret or "")).name == made.name
        with refused("identity-not-allowed"):
            await join(w, "tenant-a", SHORT, instance="new", ip="192.0.2.2")
        with refused("identity-not-allowed"):
            await join(w, "tenant-a", SHORT)

    run(body)


def test_the_short_form_ends_by_configuration() -> None:
    async def body(w: World) -> None:
        await w.store.buoyant_groups.delete(Key("faces", "face"))
        await tenants(w, "tenant-a")
        w.fleet.short_identities = False
        with refused("identity-not-allowed"):
            await join(w, "tenant-a", SHORT)

    run(body)


# the address of a machine that starts again


async def ready_then_silent(w: World, seconds: float) -> Registration:
    await tenants(w)
    made = await join(w, "tenant-a", A)
    await w.say(made, 1)
    await w.clock.advance(seconds)
    return made


def test_a_rebooting_machines_address_is_not_taken() -> None:
    async def body(w: World) -> None:
        made = await ready_then_silent(w, LEASE + 5)
        with refused("address-taken"):
            await join(w, "tenant-b", B)
        assert any("reserved for" in event.message and " s" in event.message for event in w.store.events)
        assert (await join(w, "tenant-a", A, secret=made.secret or "")).name == made.name

    run(body)


def test_an_address_is_free_a_lease_after_the_lease() -> None:
    async def body(w: World) -> None:
        await ready_then_silent(w, 2 * LEASE + 1)
        await join(w, "tenant-b", B)

    run(body)


def test_the_identity_of_before_has_its_address_at_once() -> None:
    async def body(w: World) -> None:
        await ready_then_silent(w, LEASE + 1)
        await join(w, "tenant-a", A, instance="reinstalled")

    run(body)


@pytest.mark.parametrize("how", ["leaves", "moves"])
def test_an_address_is_free_at_once_when_its_machine(how: str) -> None:
    async def body(w: World) -> None:
        await tenants(w)
        made = await join(w, "tenant-a", A)
        if how == "leaves":
            await w.registry.leave(Caller(A, made.secret), Key(made.namespace, made.name))
        else:
            await join(w, "tenant-a", A, ip="192.0.2.9", secret=made.secret or "")
        await join(w, "tenant-b", B)

    run(body)


def test_a_short_expiry_ends_no_reservation() -> None:
    """The workload is the reservation, so that every replica knows of it, also one that has just started."""

    async def body(w: World) -> None:
        await tenants(w, leaseSeconds=10, expirySeconds=10)
        await w.say(await join(w, "tenant-a", A), 1)
        await w.clock.advance(18)
        with refused("address-taken"):
            await join(w, "tenant-b", B)
        await w.clock.advance(5)
        await join(w, "tenant-b", B)

    run(body)


def test_another_replica_keeps_the_reservation_too() -> None:
    async def body(w: World) -> None:
        made = await ready_then_silent(w, LEASE + 5)
        other = World(w.store, "two", w.clock)
        record = w.fleet.records[Key(made.namespace, made.name)]
        for one in w.fleet.all_groups():
            if (found := w.fleet.group(one)) is not None:
                other.fleet.set_group(found)
        seen = other.fleet.observe(record.workload)
        assert seen is not None and other.fleet.lapsed(seen)
        with refused("address-taken"):
            await join(other, "tenant-b", B)

    run(body)


# whether an address is the machine's own


def test_an_address_that_is_not_the_callers_is_refused() -> None:
    async def body(w: World) -> None:
        w.own = CLUSTER
        await tenants(w)
        early = await join(w, "tenant-b", B, ip="192.0.2.1", source="192.0.2.66")
        assert "no machine's own address was seen yet" in await accepted(w, "tenant-b", summary.PROVEN)
        await w.registry.leave(Caller(B, early.secret), Key("tenant-b", early.name))
        await join(w, "tenant-a", A, ip="192.0.2.7", source="192.0.2.7")
        with refused("address-not-allowed"):
            await join(w, "tenant-b", B, ip="192.0.2.1", source="192.0.2.66")
        await join(w, "tenant-b", B, ip="192.0.2.66", source="::ffff:192.0.2.66")
        assert await accepted(w, "tenant-b", summary.PROVEN) == ""

    run(body)


@pytest.mark.parametrize("source", ["192.0.2.250", "10.42.0.1", "127.0.0.1", "2001:db8::1", "fe80::1%eth0", ""])
def test_what_the_controller_cannot_see_is_told_and_not_refused(source: str) -> None:
    async def body(w: World) -> None:
        w.own = CLUSTER
        await tenants(w)
        made = await join(w, "tenant-a", A, source=source)
        assert "1 unproven (" in await accepted(w, "tenant-a", summary.PROVEN)
        await join(w, "tenant-a", A, source="192.0.2.1", secret=made.secret or "")
        await w.say(made, 1)
        assert await accepted(w, "tenant-a", summary.PROVEN) == ""

    run(body)


def test_a_member_of_before_stays_and_may_not_move_to_a_foreign_address() -> None:
    async def body(w: World) -> None:
        await tenants(w)
        made = await join(w, "tenant-a", A, source="198.51.100.1")
        w.own = CLUSTER
        again = await join(w, "tenant-a", A, source="198.51.100.1", secret=made.secret or "")
        assert again.name == made.name
        await join(w, "tenant-b", B, ip="192.0.2.66", source="192.0.2.66")
        with refused("address-not-allowed"):
            await join(w, "tenant-a", A, source="198.51.100.1", ip="192.0.2.7", secret=made.secret or "")
        with refused("address-not-allowed"):
            await join(w, "tenant-a", A, source="198.51.100.1")

    run(body)


def test_require_refuses_each_difference_and_off_none() -> None:
    async def body(w: World) -> None:
        await tenants(w, "tenant-a", admission={"addressProof": "require"})
        await tenants(w, "tenant-b", admission={"addressProof": "off"})
        for number, own in enumerate((None, CLUSTER)):
            w.own = own
            with refused("address-not-allowed"):
                await join(w, "tenant-a", A, source="192.0.2.250")
            await join(w, "tenant-b", B, instance=str(number), ip=f"192.0.2.{number + 10}", source="192.0.2.66")
        await join(w, "tenant-a", A, source="192.0.2.1")

    run(body)


def test_without_a_cluster_auto_compares_nothing() -> None:
    mode, facts = group().spec.admission.address_proof, World().fleet.facts
    found = address_proof.judge(mode, parse_address("192.0.2.1"), parse_address("192.0.2.2"), facts, None, survives=True)
    assert found == address_proof.NOT_COMPARED


# ports that the controller may reach


def test_an_inbound_port_outside_the_network_policy_is_told() -> None:
    async def body(w: World) -> None:
        w.registry.machine_ports = (PortRange(4143, 4150),)
        await tenants(w)
        await join(w, "tenant-a", A, inbound_port=4150)
        assert await accepted(w, "tenant-a", summary.REACHABLE) == ""
        await join(w, "tenant-b", B, ip="192.0.2.66", inbound_port=5143)
        assert "5143" in await accepted(w, "tenant-b", summary.REACHABLE)
        assert await accepted(w, "tenant-a", summary.REACHABLE) == ""

    run(body)
