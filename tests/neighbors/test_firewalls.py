"""ufw, firewalld and nftables.service on the machine: what they drop is told, and what they flush is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checks import beginning
from tests.package.machine import PODS, Machine, machine
from tests.package.member import repairs
from tests.package.root import layered

REACHED = "peers reach port 4143"


@pytest.fixture
def vm(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found:
        found.configure(redirect={"inbound": "all"})
        found.boot()
        found.run("ssh-keygen", "-A")
        found.run("systemctl", "start", "ssh")
        found.wait_ready()
        found.serve()
        yield found


def verdict(vm: Machine) -> str:
    """Of the check's line about what peers reach."""
    return beginning(vm.run("meshexp", "check", "-o", "json", check=False), REACHED)["result"]


def test_ufw(vm: Machine) -> None:
    vm.run("ufw", "allow", "22/tcp")
    vm.run("ufw", "--force", "enable")
    assert verdict(vm) == "error", "its default drops what peers send"
    vm.run("ufw", "allow", "proto", "tcp", "from", f"{PODS}/24", "to", "any", "port", "4143")
    assert verdict(vm) == "success"
    with vm.traffic():
        vm.run("ufw", "reload")


def test_firewalld(vm: Machine) -> None:
    vm.run("systemctl", "start", "dbus", "firewalld")
    vm.wait(lambda: "running" in vm.run("firewall-cmd", "--state", check=False))
    assert verdict(vm) == "error"
    vm.run("firewall-cmd", "--add-port=4143/tcp", "--permanent")
    vm.run("firewall-cmd", "--reload")
    assert verdict(vm) == "success"
    with vm.traffic():
        vm.run("firewall-cmd", "--reload")


def test_nftables_service(vm: Machine) -> None:
    """Debian's /etc/nftables.conf begins with `flush ruleset`."""
    before = repairs(vm)
    vm.run("systemctl", "restart", "nftables")
    vm.wait(lambda: repairs(vm) > before and "table inet meshexp" in vm.run("nft", "list", "ruleset"))
    vm.wait_ready()
    with vm.traffic():
        pass
