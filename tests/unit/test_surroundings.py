"""What of the machine is looked at again and again: what nobody can say at the moment stays as it was."""

from __future__ import annotations

import asyncio
import ipaddress
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from harness.clock import SystemClock
from harness.config.schema import Config
from harness.daemon import machine
from harness.daemon.surroundings import Surroundings
from harness.known import KEPT_SECONDS, MOST_KEPT, Machine, Told
from harness.paths import Paths
from harness.values import HostPort
from tests import builders
from tests.mesh import ENVIRONMENT, ROOT

A, B = ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("192.0.2.8")
NO_NAME = ".".join(["a" * 60] * 5)
"""Longer than a name can be: the C library refuses it, and asks no server."""


def told(host: str, *addresses: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Told:
    return Told(HostPort(host, 8081)).again(addresses, SystemClock().now())


def with_spire(host: str) -> Config:
    agent = {"server_address": "spire:8081", "join_token_file": "/none"}
    workload = {"group": "face", "namespace": "faces", "addresses": ["192.0.2.9"]}
    identity = {"mode": "agent", "agent": agent, "spire": {"agent_user": "2104"}}
    made = builders.config(identity=identity, workload=workload, proxy={"user": "2102"})
    at = replace(made.identity.agent, server_address=HostPort(host, 8081))  # also one that no configuration can have
    return replace(made, identity=replace(made.identity, agent=at))


def test_what_names_lead_to_makes_no_other_machine() -> None:
    """Name servers tell the same addresses in another order each time: every look would be news, and no proxy restarted."""
    before = builders.machine(controller_at=(A, B), spire_told=told("spire", A))
    assert before == replace(before, controller_at=(B, A), spire_told=told("spire", A, B))
    assert before != replace(before, addresses=(A,))


def test_a_spire_server_whose_name_cannot_be_looked_up_stays_reachable(tmp_path: Path) -> None:
    """Also when all is looked at, as after a change of another workload's files."""
    config = with_spire(NO_NAME)
    paths = Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run")
    before = builders.machine(spire_told=told(NO_NAME, A))
    assert asyncio.run(machine.look_at_network(config, before)).spire_addresses == (A,)
    assert asyncio.run(machine.look(config, paths, "ANCHORS", before)).spire_addresses == (A,)


def test_its_name_is_looked_up_again() -> None:
    async def until_told() -> Machine:
        found = builders.machine()
        for _ in range(200):
            if not found.spire_addresses:
                found = await machine.look_at_network(with_spire("localhost"), found)
        return found

    found = asyncio.run(until_told())
    assert found.spire_addresses and all(address.is_loopback for address in found.spire_addresses)
    assert list(found.spire_addresses) == sorted(set(found.spire_addresses), key=str), "another order is no other rule"


def test_a_name_server_that_tells_one_of_several_addresses_each_time_changes_no_rules() -> None:
    """Each other answer would be other rules, and the event of their change would wake the next look."""
    last = told(str(A), B)
    found = asyncio.run(machine.look_at_network(with_spire(str(A)), builders.machine(spire_told=last)))
    assert found.spire_addresses == (A, B)
    again = asyncio.run(machine.look_at_network(with_spire(str(A)), found))
    assert again.spire_addresses == (A, B)


def test_an_address_that_is_not_told_any_more_is_kept_for_a_while() -> None:
    server = HostPort("spire", 8081)
    first = Told(server).again((A,), 0.0).again((B,), KEPT_SECONDS - 1)
    assert [address for address, _ in first.last] == [A, B]
    assert [address for address, _ in first.again((B,), KEPT_SECONDS).last] == [B]
    many = [ipaddress.ip_address("198.51.100.0") + number for number in range(MOST_KEPT + 8)]
    full = Told(server).again((A,), 0.0).again(many, 1.0)
    assert len(full.last) == MOST_KEPT and A not in dict(full.last)
    turned = full.again(many[20:] + many[:20], 2.0)
    assert dict(turned.last).keys() == dict(full.last).keys(), "another order is no news"


def test_after_a_reload_with_another_spire_server_the_former_ones_addresses_go(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run")
    before = builders.machine(spire_told=told("spire.example", A))
    for host, left in ((NO_NAME, ()), (str(B), (B,))):
        found = asyncio.run(machine.look(with_spire(host), paths, "ANCHORS", before))
        assert found.spire_addresses == left


class Log:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, text: str, *, reason: str, hint: str) -> None:
        self.errors.append(reason)


def test_a_look_at_changed_neighbours_that_fails_is_told_once_and_made_again(tmp_path: Path) -> None:
    """It is no news: then the next cycle would begin at once, for as long as it fails."""
    paths = Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run")
    green = tmp_path / "etc/instances/green/harness.yaml"
    green.parent.mkdir(parents=True)
    green.write_text('{workload: {group: green, namespace: faces}, proxy: {user: "2302"}}')
    well = with_spire(str(A))
    failing = replace(well, proxy=replace(well.proxy, user="no-such-user"))
    log, before = Log(), builders.machine()

    async def looks() -> None:
        surroundings = Surroundings(paths, log)
        for _ in range(2):
            found, news = await surroundings.look_again(failing, before)
            assert (found.others.proxies, news) == ((), False)
        assert len(log.errors) == 1 and "no-such-user" in log.errors[0]
        found, news = await surroundings.look_again(well, before)
        assert (found.others.proxies, news) == ((2302,), True)
        found, news = await surroundings.look_again(well, found)
        assert (found.others.proxies, news, len(log.errors)) == ((2302,), False, 1)

    asyncio.run(looks())


NO_DESCRIPTORS = """
import asyncio, ipaddress, os, resource
from harness.daemon import surroundings
from harness.system.netlink import Netlink
from tests import builders

class Log:
    def info(self, text, **values): print(text, values)
    warning = info

async def main():
    former = frozenset({ipaddress.ip_address("192.0.2.99")})
    await Netlink().addresses()  # and what it imports
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    kept = await surroundings.leave_addresses(former, builders.machine(), Log())
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(*kept)
    print(*await surroundings.leave_addresses(kept, builders.machine(), Log()))
asyncio.run(main())
"""


def test_a_former_address_is_asked_for_until_the_kernel_tells() -> None:
    """Else the proxy's connections from it are never ended."""
    argv = (sys.executable, "-s", "-c", NO_DESCRIPTORS)
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT, env=ENVIRONMENT)
    assert done.stdout.splitlines() == ["192.0.2.99", "the proxy connects again from the new address {'ended': 0}", ""]


NO_WAY = """
import asyncio
from harness.daemon import machine
from tests import builders

workload = {"group": "face", "namespace": "faces"}
config = builders.config(workload=workload, network={"node": "192.0.2.7"}, controller={"address": "192.0.2.7:9997"})
print(asyncio.run(machine.look_at_network(config, builders.machine())).unaddressed)
"""


def test_a_node_that_is_the_controllers_too_is_named_once() -> None:
    """In a network namespace without any way."""
    argv = ("unshare", "--net", sys.executable, "-s", "-c", NO_WAY)
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT, env=ENVIRONMENT)
    assert done.stdout.count("the way to 192.0.2.7") == 1
