"""Whether an application can be reached where peers look for it; and how soon one that starts late is noticed."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable

import pytest

from harness.errors import UnavailableError
from harness.listeners import Listener, elsewhere
from harness.probe import HttpGet, Probe
from harness.reconcilers.probes import Probes, Watch
from harness.specs import ApplicationSpec, Check
from harness.status import Truth
from tests.controller_support import StandingClock

OWN = ipaddress.ip_address("10.9.0.2")
OWN6 = ipaddress.ip_address("fd00::2")


def listener(address: str, port: int = 8000, *, only_ipv6: bool = False) -> Listener:
    return Listener(ipaddress.ip_address(address), port, only_ipv6)


@pytest.mark.parametrize(
    ("addresses", "own", "reached"),
    [
        (("127.0.0.1",), OWN, False),
        (("127.0.0.1", "::1"), OWN, False),
        (("::ffff:127.0.0.1",), OWN, False),
        (("192.168.1.5",), OWN, False),
        (("127.0.0.1", "0.0.0.0"), OWN, True),
        (("10.9.0.2",), OWN, True),
        (("::ffff:10.9.0.2",), OWN, True),
        (("::",), OWN, True),
        (("::",), OWN6, True),
        (("0.0.0.0",), OWN6, False),
        ((), OWN, True),
    ],
)
def test_where_peers_reach_it(addresses: tuple[str, ...], own: ipaddress.IPv4Address, reached: bool) -> None:
    found = elsewhere((8000,), (own,), [listener(address) for address in addresses])
    assert [one.port for one in found] == ([] if reached else [8000])


def test_a_listener_for_ipv6_alone_is_reached_by_ipv6_alone() -> None:
    there = [listener("::", only_ipv6=True)]
    assert elsewhere((8000,), (OWN6,), there) == ()
    (found,) = elsewhere((8000,), (OWN,), there)
    assert str(found) == "port 8000 listens on :: only"


class Machine:
    """`listeners` and `answer` change as an application does. `silent`: why the kernel does not tell."""

    def __init__(self, spec: ApplicationSpec, silent: str = "") -> None:
        self.spec, self.clock = spec, StandingClock()
        self.silent = silent
        self.reasons: list[str] = []
        self.listeners: tuple[Listener, ...] = ()
        self.answer: str | None = "connection refused"
        self.asked = 0
        self.probes = Probes(self._check, self._look, self.clock, self.reasons.append)

    def _look(self) -> tuple[Listener, ...]:
        if self.silent:
            raise UnavailableError(self.silent)
        return self.listeners

    async def _check(self, check: Check) -> str | None:
        self.asked += 1
        return self.answer

    async def start(self) -> None:
        await self.probes.apply(Watch(self.spec))
        await self.settle()

    async def settle(self) -> None:
        """Until each of its tasks sleeps again: then what it looked at is told. A look is made in a thread."""
        tasks = len(self.spec.checks) + bool(self.spec.ports)
        async with asyncio.timeout(60):
            while self.clock.sleeping < tasks:
                await asyncio.sleep(0.001)

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        await self.settle()

    async def told(self) -> tuple[Truth, str | None, str]:
        observed = await self.probes.observe()
        condition = self.probes.condition(self.spec, observed)
        return condition.truth, condition.problem.code if condition.problem else None, condition.message


def on(machine: Callable[[], Machine], check: Callable[[Machine], object]) -> None:
    async def run() -> None:
        made = machine()
        await made.start()
        await check(made)  # type: ignore[misc]
        await made.probes.apply(Watch(None))

    asyncio.run(run())


def with_ports(silent: str = "") -> Machine:
    return Machine(ApplicationSpec(ports=(8000,), addresses=(OWN,)), silent)


def with_a_probe() -> Machine:
    probe = Probe(http_get=HttpGet(8000, "127.0.0.1"), period_seconds=10, failure_threshold=1)
    return Machine(ApplicationSpec((Check(probe),)))


def test_an_application_on_loopback_is_named_and_not_ready() -> None:
    async def check(machine: Machine) -> None:
        machine.listeners = (listener("127.0.0.1"),)
        await machine.advance(2)
        truth, code, message = await machine.told()
        assert (truth, code) == (Truth.FALSE, "application-elsewhere")
        assert "port 8000 listens on 127.0.0.1 only, and peers call it at 10.9.0.2" in message
        observed = await machine.probes.observe()
        assert observed.failing == "port 8000 listens on 127.0.0.1 only" and observed.decided
        machine.listeners = (listener("0.0.0.0"),)
        await machine.advance(2)
        assert (await machine.told())[0] is Truth.TRUE

    on(with_ports, check)


def test_before_the_first_look_nothing_is_decided() -> None:
    async def check(machine: Machine) -> None:
        machine.listeners = (listener("127.0.0.1"),)
        await machine.probes.apply(Watch(machine.spec))
        observed = await machine.probes.observe()
        assert not observed.decided and (await machine.told())[0] is Truth.UNKNOWN
        await machine.settle()
        assert (await machine.probes.observe()).decided and (await machine.told())[1] == "application-elsewhere"

    on(with_ports, check)


def test_where_the_kernel_does_not_tell_the_probes_decide() -> None:
    async def check(machine: Machine) -> None:
        observed = await machine.probes.observe()
        assert observed.decided and observed.failing is None
        unknown = "no probes; it is unknown where the application listens: no such protocol"
        assert await machine.told() == (Truth.TRUE, None, unknown)
        assert machine.reasons == ["the kernel does not tell where the application listens"]
        machine.silent = ""
        await machine.advance(2)
        assert await machine.told() == (Truth.TRUE, None, "no probes")
        assert machine.reasons[1:] == ["the application listens where peers look"]

    on(lambda: with_ports("no such protocol"), check)


def test_what_was_found_before_the_kernel_fell_silent_stays() -> None:
    async def check(machine: Machine) -> None:
        machine.listeners = (listener("127.0.0.1"),)
        await machine.advance(2)
        machine.silent = "no such protocol"
        await machine.advance(2)
        assert (await machine.told())[1] == "application-elsewhere"

    on(with_ports, check)


def test_until_it_has_passed_a_probe_is_repeated_after_a_second() -> None:
    async def check(machine: Machine) -> None:
        await machine.advance(3.5)
        assert machine.asked == 4
        machine.answer = None
        await machine.advance(1)
        assert (await machine.told())[0] is Truth.TRUE
        before = machine.asked
        machine.answer = "connection refused"
        await machine.advance(9)
        assert machine.asked == before, "from then on it has its period"
        await machine.advance(1)
        assert machine.asked == before + 1 and (await machine.told())[1] == "probe-failed"
        await machine.advance(9)
        assert machine.asked == before + 1

    on(with_a_probe, check)
