"""dhclient takes the machine's address away and brings another, while it is a member and before it is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh import NODE, VM
from tests.package.machine import CHECKOUT, PODS, Machine, machine
from tests.package.root import layered

FIRST, SECOND = "10.9.0.71", "10.9.0.81"


@pytest.fixture(scope="module")
def vm(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found:
        found.configure()
        found.boot()
        script = f"{CHECKOUT}/tests/package/traffic.py"
        found.run("systemd-run", "--quiet", "--collect", "--unit=workload", "/usr/bin/python3", script, "serve", "0.0.0.0")
        found.wait_ready()
        yield found


def offer(vm: Machine, address: str) -> None:
    """The node's DHCP server has this address, and no other."""
    if "dhcp" in vm.mesh.processes:
        vm.mesh.stop("dhcp")
    words = (f"--dhcp-range={address},{address},10m", "--dhcp-leasefile=/dev/null", "--bind-interfaces", "--interface=eth0")
    vm.mesh.start("dhcp", vm.mesh.node, "dnsmasq", "--no-daemon", "--port=0", "--conf-file=/dev/null", *words)


def is_member_at(vm: Machine, address: str) -> bool:
    status = vm.status()
    return bool(status["phase"] == "Ready" and status.get("ready") and vm.mesh.addresses()[-1:] == [address])


def serves(vm: Machine, address: str) -> bool:
    """A pod."""
    return vm.mesh.reaches(address, "--interface", PODS)


def test_the_member_follows_its_address(vm: Machine) -> None:
    daemon = vm.pid()
    assert is_member_at(vm, VM)
    offer(vm, FIRST)
    vm.run("ip", "address", "flush", "dev", "eth0")
    vm.wait(lambda: vm.condition("Address").get("problem") == "no-address")
    assert NODE in vm.condition("Address")["message"]
    vm.run("dhclient", "-1", "eth0")
    vm.wait(lambda: is_member_at(vm, FIRST) and serves(vm, FIRST))
    offer(vm, SECOND)
    vm.run("dhclient", "-r", "eth0")
    vm.run("dhclient", "-1", "eth0")
    vm.wait(lambda: is_member_at(vm, SECOND) and serves(vm, SECOND))
    assert vm.pid() == daemon


def test_a_daemon_that_starts_before_the_address(vm: Machine) -> None:
    offer(vm, FIRST)
    vm.run("systemctl", "stop", "meshexp-harness")
    vm.run("dhclient", "-r", "eth0")
    vm.run("ip", "address", "flush", "dev", "eth0")
    vm.run("systemctl", "start", "meshexp-harness")
    vm.wait(lambda: vm.condition("Address").get("problem") == "no-address")
    vm.run("dhclient", "-1", "eth0")
    vm.wait(lambda: is_member_at(vm, FIRST) and serves(vm, FIRST))
