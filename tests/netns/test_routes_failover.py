"""Service networks over several nodes: real links, real ARP and neighbour discovery, a stream of packets through the change."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.namespaces import Namespace, connect, namespace
from tests.waiting import wait

ROOT = Path(__file__).resolve().parents[2]
# As the daemon's cycle does: woken by the nodes' watch, by the kernel's route events, and after a while. It tells what it sees.
SCRIPT = """
import asyncio, contextlib, ipaddress, json, sys
from harness.clock import SystemClock
from harness.reconcilers import routes as module
from harness.reconcilers.routes import Routes
from harness.specs import Route
from harness.system import kernel_events
from harness.system.netlink import Netlink

async def main():
    module.STEADY_SECONDS, said = float(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
    network, *nodes = map(lambda text: ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text), sys.argv[3:])
    desired = (Route(network, nodes[0], spares=tuple(nodes[1:])),)
    due = asyncio.Event()
    routes = Routes(Netlink(), SystemClock(), lambda reason: due.set())
    kernel_events.watch_network(lambda reason: due.set())
    while True:
        due.clear()
        for action in routes.diff(desired, await routes.observe()):
            await routes.apply(action)
        observed = await routes.observe()
        silent = [str(node) for node in nodes if node in observed.silent]
        print(json.dumps({"via": [str(route.via) for route in observed.ours], "silent": silent}), file=said)
        await routes.watch(desired)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(due.wait(), 1)

asyncio.run(main())
"""

ECHO = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind((sys.argv[1], 7))
    while True:
        server.sendto(*server.recvfrom(100))
"""
CLIENT = """
import contextlib, itertools, socket, sys, time
answers = open(sys.argv[2], "a", buffering=1)
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(0.1)
    for number in itertools.count():
        with contextlib.suppress(OSError):
            client.sendto(str(number).encode(), (sys.argv[1], 7))
            print(client.recv(100).decode(), file=answers)
            time.sleep(0.1)
"""
STEADY_SECONDS, NEVER = 10.0, 3600.0


@dataclass(frozen=True, slots=True)
class Family:
    prefix: str
    network: str
    service: str
    ip: tuple[str, ...]

    def address(self, number: int) -> str:
        return f"{self.prefix}{number}"


V4 = Family("10.9.0.", "10.43.0.0/16", "10.43.0.1", ("ip", "-4"))
V6 = Family("fd09::", "fd43::/64", "fd43::1", ("ip", "-6"))


@dataclass(frozen=True, slots=True)
class Lab:
    vm: Namespace
    switch: Namespace
    nodes: tuple[Namespace, Namespace]
    folder: Path

    def via(self, family: Family) -> str:
        found = re.search(r"via (\S+)", self.vm.run(*family.ip, "route", "show", "proto", "77"))
        return found[1] if found else ""


def give_ipv6(member: Namespace, number: int) -> None:
    """The addresses that go with the link. From the link-local one the kernel asks for others' hardware addresses."""
    for address in (f"{V6.address(number)}/64", f"fe80::{number}/64"):
        member.run("ip", "address", "replace", address, "dev", f"port{number}", "nodad")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A machine and two nodes on one switch; both nodes have the services' addresses."""
    with namespace() as vm, namespace() as switch, namespace() as one, namespace() as other:
        switch.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        switch.run("ip", "link", "set", "br0", "up")
        for number, member in ((9, vm), (1, one), (2, other)):
            connect(switch, member, (), name=f"port{number}")
            switch.run("ip", "link", "set", f"port{number}", "master", "br0")
            member.run("ip", "address", "add", f"{V4.address(number)}/24", "dev", f"port{number}")
            give_ipv6(member, number)
        for node in (one, other):
            node.run("ip", "address", "add", f"{V4.service}/32", "dev", "lo")
            node.run("ip", "address", "add", f"{V6.service}/128", "dev", "lo")
        yield Lab(vm, switch, (one, other), tmp_path)


@dataclass(frozen=True, slots=True)
class Look:
    """What the routes' keeper saw in one cycle."""

    via: str
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keeper:
    said: Path

    def looks(self) -> list[Look]:
        """Whole lines only: it writes meanwhile."""
        lines = self.said.read_text().rpartition("\n")[0].splitlines()
        return [Look(" ".join(found["via"]), tuple(found["silent"])) for found in map(json.loads, lines)]

    def sees(self, *silent: str) -> None:
        """Waits for a look at which these are silent, and no others."""
        before = len(self.looks())
        wait(lambda: any(look.silent == silent for look in self.looks()[before:]))


@contextlib.contextmanager
def kept(lab: Lab, family: Family, steady_seconds: float = STEADY_SECONDS) -> Iterator[Keeper]:
    keeper = Keeper(lab.folder / "said")
    argv = ["-c", SCRIPT, str(steady_seconds), str(keeper.said), family.network, family.address(1), family.address(2)]
    process = lab.vm.start(sys.executable, *argv, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait(lambda: lab.via(family) == family.address(1) or process.poll() is not None)
        yield keeper
        assert process.poll() is None
    finally:
        process.kill()
        print(process.communicate()[0])
        print(keeper.said.read_text() if keeper.said.exists() else "it saw nothing")


@dataclass(slots=True)
class Stream:
    """Of numbered datagrams to a service, ten a second, and their answers."""

    answers: Path

    def numbers(self) -> set[int]:
        return {int(line) for line in self.answers.read_text().rpartition("\n")[0].splitlines()}

    def more(self, count: int = 5) -> int:
        """Waits for answers that are not there yet. The number of the last one."""
        before = len(self.numbers())
        wait(lambda: len(self.numbers()) >= before + count)
        return max(self.numbers())

    def lost(self, first: int, last: int) -> list[int]:
        """Those of these datagrams that nobody has answered so far."""
        return sorted(set(range(first, last + 1)) - self.numbers())


@contextlib.contextmanager
def stream(lab: Lab, family: Family) -> Iterator[Stream]:
    flow = Stream(lab.folder / "answers")
    flow.answers.touch()
    servers = [node.start(sys.executable, "-c", ECHO, family.service) for node in lab.nodes]
    client = lab.vm.start(sys.executable, "-c", CLIENT, family.service, str(flow.answers))
    try:
        flow.more()
        yield flow
        flow.more()
    finally:
        for process in (client, *servers):
            process.kill()
            process.communicate()


@pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
def test_a_node_whose_link_goes_down_is_replaced_and_comes_back_when_steady(lab: Lab, family: Family) -> None:
    one, other = family.address(1), family.address(2)
    with kept(lab, family) as keeper, stream(lab, family) as flow:
        lab.nodes[0].run("ip", "link", "set", "port1", "down")
        seconds = wait(lambda: lab.via(family) == other)
        first = flow.more()
        lab.nodes[0].run("ip", "link", "set", "port1", "up")
        give_ipv6(lab.nodes[0], 1)
        back = wait(lambda: lab.via(family) == one)
        last = flow.more()
        wait(lambda: not flow.lost(first, last), why=lambda: f"the way back costs traffic: {flow.lost(first, last)}")
    print(f"failover after {seconds:.1f} s, back after {back:.1f} s")
    assert Look(other, ()) in keeper.looks(), "it answers, but not for long enough yet"


def test_a_node_that_stops_answering_arp_with_its_link_up(lab: Lab) -> None:
    with kept(lab, V4), stream(lab, V4):
        lab.nodes[0].run(
            "ip", "address", "del", f"{V4.address(1)}/24", "dev", "port1"
        )  # a machine gone, its switch port still up
        seconds = wait(lambda: lab.via(V4) == V4.address(2))
    print(f"failover after {seconds:.1f} s")


def test_a_node_that_comes_and_goes_is_not_followed(lab: Lab) -> None:
    """However long this machine takes for a look: no node is ever steady here."""
    with kept(lab, V4, steady_seconds=NEVER) as keeper:
        lab.switch.run("ip", "link", "set", "port1", "down")
        wait(lambda: lab.via(V4) == V4.address(2))
        begun = len(keeper.looks())
        for _ in range(3):
            lab.switch.run("ip", "link", "set", "port1", "up")
            keeper.sees()
            lab.switch.run("ip", "link", "set", "port1", "down")
            keeper.sees(V4.address(1))
    assert {look.via for look in keeper.looks()[begun:]} == {V4.address(2)}


def test_with_no_node_left_the_route_stays_and_follows_the_first_that_answers(lab: Lab) -> None:
    with kept(lab, V4) as keeper:
        for port in ("port1", "port2"):
            lab.switch.run("ip", "link", "set", port, "down")
        keeper.sees(V4.address(1), V4.address(2))
        assert lab.via(V4), "a route that may work again is better than packets to the default gateway"
        lab.switch.run("ip", "link", "set", "port2", "up")
        with stream(lab, V4):  # answered, at its begin and at its end
            wait(lambda: lab.via(V4) == V4.address(2))
