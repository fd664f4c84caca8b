"""What several replicas write to one store, at once or one after the other: addresses, places, groups, and what others wrote."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from controller.admission import RefusedError
from controller.manifest import GROUP_API, stored_group
from controller.model import Key
from controller.registry import Caller
from harness.errors import TemporaryError
from harness.messages import Reason, Registration
from harness.values import SpiffeId
from tests.controller_support import TRUST_DOMAIN, group, group_object, settle
from tests.unit.replica_site import Site, hold, run


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


def test_after_a_restart_with_a_fault_in_the_group_its_machines_stay_members() -> None:
    """No spec that can be used is known then: not what they are to have, and not who is admitted."""
    other = SpiffeId(TRUST_DOMAIN, "/other")

    async def body(s: Site) -> None:
        key = Key("faces", "face")
        old = await s.store.groups.get(key)
        admission = {"spiffeIDs": [str(other)]}
        spec = group_object(admission=admission)["spec"]
        await s.store.groups.replace(stored_group(old.to_object() | {"spec": spec}))
        await s.clock.advance(2)
        made = await s.worlds["a"].join(identity=other)
        await s.worlds["a"].say(made, 1)
        before = await s.worlds["a"].workload(made)
        await s.kill("a")
        good = await s.store.groups.get(key)
        broken = spec | {"probes": [{"tcpSocket": {"port": "htp"}}]}
        await s.store.groups.replace(stored_group(good.to_object() | {"spec": broken}))
        b = await s.start("b")
        await s.clock.advance(60)
        assert s.leaders() == ["b"]
        await b.say(made, 2)
        for _ in range(8):
            await s.clock.advance(10)
            with pytest.raises(TemporaryError, match=r"cannot be used: spec\.probes\[0\]\.tcpSocket\.port"):
                await b.registry.hold(Caller(other, made.secret), Key("faces", made.name), made.version, 60)
        after = await b.workload(made)
        assert (after.spec, after.metadata.labels, after.ready) == (before.spec, before.metadata.labels, True)
        await b.registry.leave(Caller(other, made.secret), Key("faces", made.name))
        assert await b.names() == set()

    run(body, "a")
