"""When the controller connects to a machine that asks for it, and when not; also with several replicas."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from types import FrameType
from typing import Any, cast

import pytest

from controller.admission import RefusedError
from controller.dial_back import MOST_OF_ONE, DialBack
from controller.model import Key, WorkloadIP
from controller.registry import Caller
from controller.tested import PAUSE_SECONDS, TESTED, of_address, parsed
from harness.errors import TemporaryError
from harness.messages import Reach, Reached, Registration
from harness.values import IPAddress, SpiffeId, parse_address
from tests.controller_support import TRUST_DOMAIN, settle
from tests.unit import replica_site
from tests.unit.controller_world import FACE, World, refused, run
from tests.unit.replica_site import Lost, Site


class Dialled:
    """Connections that come about at once, and are counted. `gate`: they wait for it."""

    def __init__(self) -> None:
        self.targets: list[tuple[str, int, str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, address: IPAddress, port: int, name: str, identity: SpiffeId, anchors: str) -> Reach:
        self.targets.append((str(address), port, name, str(identity)))
        await self.gate.wait()
        return Reach(address, port, Reached.CONNECTED, source=parse_address("10.42.0.7"))


def key(made: Registration) -> Key:
    return Key(made.namespace, made.name)


def test_a_machine_has_one_connection_made_in_ten_seconds() -> None:
    async def body(w: World) -> None:
        dialled = Dialled()
        back, made, other = DialBack(w.registry, dialled), await w.join(), await w.join("two", "192.0.2.2")
        dialled.gate.clear()
        both = [asyncio.create_task(back.reach(Caller(FACE, made.secret), key(made))) for _ in range(2)]
        await settle()
        dialled.gate.set()
        assert [(await one).outcome for one in both] == [Reached.CONNECTED] * 2
        await w.clock.advance(PAUSE_SECONDS - 1)
        old = await back.reach(Caller(FACE, made.secret), key(made))
        assert old.ago == PAUSE_SECONDS - 1
        assert dialled.targets == [("192.0.2.1", 4143, made.server_name, str(FACE))]
        assert (await back.reach(Caller(FACE, other.secret), key(other))).address == parse_address("192.0.2.2")
        await w.clock.advance(1)
        assert (await back.reach(Caller(FACE, made.secret), key(made))).ago == 0 and len(dialled.targets) == 3

    run(body)


def test_it_goes_to_the_registered_port_and_a_new_address_does_not_get_another_at_once() -> None:
    async def body(w: World) -> None:
        dialled = Dialled()
        back, made = DialBack(w.registry, dialled), await w.join(inbound_port=14143)
        await back.reach(Caller(FACE, made.secret), key(made))
        moved = await w.join(ip="192.0.2.9", inbound_port=14143, secret=made.secret)
        assert key(moved) == key(made)
        with refused("too-soon"):
            await back.reach(Caller(FACE, moved.secret), key(moved))
        await w.clock.advance(PAUSE_SECONDS)
        await back.reach(Caller(FACE, moved.secret), key(moved))
        assert [target[:2] for target in dialled.targets] == [("192.0.2.1", 14143), ("192.0.2.9", 14143)]

    run(body)


def test_an_address_is_not_tested_for_one_registration_after_the_other() -> None:
    async def body(w: World) -> None:
        dialled = Dialled()
        back, made = DialBack(w.registry, dialled), await w.join()
        await back.reach(Caller(FACE, made.secret), key(made))
        await w.join(ip="192.0.2.3", secret=made.secret)
        other = await w.join("two", "192.0.2.1")
        with refused("too-soon"):
            await back.reach(Caller(FACE, other.secret), key(other))
        await w.clock.advance(PAUSE_SECONDS)
        await back.reach(Caller(FACE, other.secret), key(other))
        assert len(dialled.targets) == 2

    run(body)


def test_one_that_has_many_registrations_leaves_room_for_the_others() -> None:
    """Its addresses are silent. One of another SPIFFE ID is tested all the same."""

    async def body(w: World) -> None:
        dialled = Dialled()
        dialled.gate.clear()
        back, tests = DialBack(w.registry, dialled), []
        for number in range(MOST_OF_ONE + 3):
            made = await w.join(f"i{number}", f"192.0.2.{number + 1}")
            tests.append(asyncio.create_task(back.reach(Caller(FACE, made.secret), key(made))))
        other = SpiffeId(TRUST_DOMAIN, "/face")
        made = await w.join("other", "192.0.2.99", other)
        tests.append(asyncio.create_task(back.reach(Caller(other, made.secret), key(made))))
        await settle()
        assert [target[0] for target in dialled.targets] == ["192.0.2.1", "192.0.2.2", "192.0.2.99"]
        dialled.gate.set()
        found = await asyncio.gather(*tests, return_exceptions=True)
        assert [isinstance(one, TemporaryError) for one in found] == [False] * MOST_OF_ONE + [True] * 3 + [False]

    run(body)


def test_no_connection_is_made_for_another_caller() -> None:
    async def body(w: World) -> None:
        dialled = Dialled()
        back, made = DialBack(w.registry, dialled), await w.join()
        with refused("secret-mismatch"):
            await back.reach(Caller(FACE, "another"), key(made))
        with refused("identity-not-allowed"):
            await back.reach(Caller(SpiffeId(TRUST_DOMAIN, "/smiley"), made.secret), key(made))
        with refused("not-registered"):
            await back.reach(Caller(FACE, made.secret), Key("faces", "nobody"))
        assert dialled.targets == []

    run(body)


def test_what_was_found_at_other_addresses_is_not_decoded_for_a_test() -> None:
    """It takes far longer than to look for the address in the text, and there is one for each machine of a whole fleet."""
    decoded = list[str]()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is parsed.__code__:
            decoded.append(frame.f_locals["text"])

    async def body(w: World) -> None:
        dialled = Dialled()
        for number in range(20):
            made = await w.join(f"i{number}", f"192.0.2.{number + 1}")
            await DialBack(w.registry, dialled).reach(Caller(FACE, made.secret), key(made))
        last = await w.join("last", "192.0.2.99")
        await settle()
        sys.setprofile(note)
        try:
            await DialBack(w.registry, dialled).reach(Caller(FACE, last.secret), key(last))
        finally:
            sys.setprofile(None)
        assert decoded == ["", ""] and len(dialled.targets) == 21, "its own, when it asks and when it begins"
        texts = [lease.metadata.annotations.get(TESTED, "") for lease in w.replicas.leases()]
        (told,) = of_address(texts, parse_address("192.0.2.1"))
        assert str(told.address) == "192.0.2.1" and told.found is not None

    run(body)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "224.0.0.1", "203.0.113.1"])
def test_what_is_in_the_store_is_looked_at_again(address: str) -> None:
    """Others can write there; the last address is one that the group does not admit."""

    async def body(w: World) -> None:
        dialled = Dialled()
        back, made = DialBack(w.registry, dialled), await w.join()
        record = w.fleet.records[key(made)]
        spec = dataclasses.replace(record.workload.spec, workload_ips=(WorkloadIP(parse_address(address)),))
        record.workload = dataclasses.replace(record.workload, spec=spec)
        with refused("address-not-allowed"):
            await back.reach(Caller(FACE, made.secret), key(made))
        assert dialled.targets == []

    run(body, admission={"addressCIDRs": ["192.0.2.0/24"]})


def test_all_replicas_together_make_one_connection_in_ten_seconds() -> None:
    async def body(s: Site) -> None:
        one, two = s.worlds["one"], s.worlds["two"]
        dialled = Dialled()
        at_one, at_two = (DialBack(replica.registry, dialled) for replica in (one, two))
        made, held = await one.join(), await one.join("two", "192.0.2.2")
        caller = Caller(FACE, made.secret)
        await settle()
        dialled.gate.clear()
        asked = [asyncio.create_task(back.reach(caller, key(made))) for back in (at_one, at_two)]
        await settle()
        dialled.gate.set()
        first, second = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(first, Reach) and isinstance(second, RefusedError) and second.code == "too-soon"
        await settle()
        await s.clock.advance(PAUSE_SECONDS - 1)
        told = await at_two.reach(caller, key(made))
        assert (told.outcome, told.source, told.ago) == (first.outcome, first.source, PAUSE_SECONDS - 1)
        await one.join("one", "192.0.2.3", secret=made.secret)
        await one.join("two", "192.0.2.1", secret=held.secret)
        await settle()
        with refused("too-soon"):  # the same address, for another registration
            await at_two.reach(Caller(FACE, held.secret), key(held))
        assert len(dialled.targets) == 1
        await s.clock.advance(1)
        assert (await at_two.reach(caller, key(made))).ago == 0 and len(dialled.targets) == 2
        two.replicas._leases = cast(Any, Lost())
        await s.clock.advance(PAUSE_SECONDS)
        with pytest.raises(TemporaryError):
            await at_two.reach(caller, key(made))
        assert len(dialled.targets) == 2, "it cannot tell the others"

    replica_site.run(body, "one", "two")
