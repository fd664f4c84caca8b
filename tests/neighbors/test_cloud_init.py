"""cloud-init names the machine and configures its network, at the first boot and again when it finds another instance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh import NODE, Mesh
from tests.namespaces import Namespace
from tests.neighbors.test_dhcp import is_member_at, serves
from tests.package.machine import CHECKOUT, Machine, machine, plug_into_node
from tests.package.root import layered, sh

SEED = "/var/lib/cloud/seed/nocloud"
# Those that have to do with the network.
STAGES = ("cloud-init-local", "cloud-init")
# No router tells of IPv6 here: a boot would wait for one.
NETWORK = """version: 2
ethernets:
  eth0:
    accept-ra: false
    addresses: ["{address}/24"]
    routes: [{{to: 0.0.0.0/0, via: {node}}}]
"""
FIRST, SECOND = "10.9.0.71", "10.9.0.81"


def without_address(vm: Namespace, mesh: Mesh) -> None:
    plug_into_node(vm, mesh)
    vm.run("ip", "address", "flush", "dev", "eth0")


@pytest.fixture
def vm(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found:
        found.plug = without_address
        found.configure()
        sh("systemctl", f"--root={root}", "enable", "systemd-networkd", *STAGES)
        yield found


def seed(vm: Machine, instance: str, host: str, address: str) -> None:
    """What a cloud tells the machine at its next boot."""
    folder = vm.file(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta-data").write_text(f"instance-id: {instance}\nlocal-hostname: {host}\n")
    (folder / "user-data").write_text("#cloud-config\n")
    (folder / "network-config").write_text(NETWORK.format(address=address, node=NODE))


def joins(vm: Machine, host: str, address: str) -> str:
    """Booted, it is a member at that address and under that host name; the name that the mesh has for it."""
    vm.boot()
    script = f"{CHECKOUT}/tests/package/traffic.py"
    vm.run("systemd-run", "--quiet", "--collect", "--unit=workload", "/usr/bin/python3", script, "serve", "0.0.0.0")
    vm.wait(lambda: is_member_at(vm, address) and serves(vm, address))
    assert f"10.42.0.0/24 via {NODE}" in vm.run("ip", "route")
    assert "10-netplan-eth0" in vm.run("networkctl", "status", "eth0")
    workload = vm.status()["workload"]
    assert workload["hostname"] == vm.run("uname", "-n").strip() == host
    return str(workload["name"])


def test_a_first_boot_and_another_instance(vm: Machine) -> None:
    seed(vm, "i-1", "first", FIRST)
    name = joins(vm, "first", FIRST)
    vm.power_off()
    seed(vm, "i-2", "second", SECOND)
    assert joins(vm, "second", SECOND) == name
    assert FIRST not in vm.run("ip", "address")
