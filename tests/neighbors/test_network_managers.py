"""systemd-networkd, NetworkManager and netplan configure the machine's link, and remove what they did not set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mesh import NODE, VM
from tests.package.machine import UNIT, Machine, machine
from tests.package.root import layered

TABLE = "177"
NETWORKD = f"""[Match]
Name=eth0
[Network]
Address={VM}/24
Gateway={NODE}
"""
NETWORK_MANAGER = f"""[connection]
id=eth0
type=ethernet
interface-name=eth0
[ipv4]
method=manual
addresses={VM}/24
gateway={NODE}
"""
NETPLAN = f"""network:
  version: 2
  renderer: networkd
  ethernets:
    eth0:
      addresses: [{VM}/24]
      routes: [{{to: default, via: {NODE}}}]
"""


@pytest.fixture
def vm(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found:
        found.configure()
        found.mesh.group(leaseSeconds=30)  # a link that is configured again carries nothing for a moment
        found.boot()
        found.wait_ready()
        found.serve()
        yield found


def routed(vm: Machine, table: str = "main") -> bool:
    shown = vm.run("ip", "route", "show", "table", table, check=False)
    led = table == "main" or f"lookup {table}" in vm.run("ip", "rule")
    return led and f"10.42.0.0/24 via {NODE}" in shown and vm.status()["phase"] == "Ready"


def changes(vm: Machine) -> int:
    return int(vm.status()["counters"]["changes"].get("routes", 0))


def told(vm: Machine) -> list[dict[str, Any]]:
    """By the machine, of its membership."""
    return vm.mesh.events("registered", "readiness changed", "workload deleted")


def hand_over(vm: Machine, service: str) -> None:
    """From then on the link is the service's, with an address that is its own."""
    vm.run("ip", "address", "flush", "dev", "eth0")
    vm.run("systemctl", "restart", service)
    vm.wait(lambda: routed(vm))


def survives(vm: Machine, *command: str, table: str = "main") -> None:
    """Although it takes our routes: they are back, and the machine is a member all the while."""
    vm.wait_ready()
    daemon, before, said = vm.pid(), changes(vm), told(vm)
    vm.run(*command)
    vm.wait(lambda: changes(vm) > before and routed(vm, table))
    with vm.traffic():
        pass
    assert vm.pid() == daemon and told(vm) == said


def test_networkd_that_manages_foreign_routes(vm: Machine) -> None:
    """Its default: when it configures a link again it removes the routes and rules that are not its own."""
    vm.file("/etc/systemd/network/eth0.network").write_text(NETWORKD)
    hand_over(vm, "systemd-networkd")
    survives(vm, "networkctl", "reconfigure", "eth0")
    vm.file("/etc/meshexp/harness.d/60-test.yaml").write_text(f"network: {{route_table: {TABLE}}}\n")
    vm.run("systemctl", "reload", UNIT)
    vm.wait(lambda: routed(vm, TABLE))
    survives(vm, "networkctl", "reconfigure", "eth0", table=TABLE)


def test_network_manager(vm: Machine) -> None:
    connection = vm.file("/etc/NetworkManager/system-connections/eth0.nmconnection")
    connection.write_text(NETWORK_MANAGER)
    connection.chmod(0o600)
    vm.file("/etc/NetworkManager/conf.d").mkdir(exist_ok=True)
    vm.file("/etc/NetworkManager/conf.d/manage.conf").write_text("[device]\nmatch-device=interface-name:eth0\nmanaged=1\n")
    hand_over(vm, "NetworkManager")
    vm.wait(lambda: "eth0:connected" in vm.run("nmcli", "-t", "-f", "DEVICE,STATE", "device"))
    survives(vm, "nmcli", "connection", "up", "eth0")


def test_netplan(vm: Machine) -> None:
    vm.file("/etc/netplan").mkdir(exist_ok=True)
    plan = vm.file("/etc/netplan/10-eth0.yaml")
    plan.write_text(NETPLAN)
    plan.chmod(0o600)
    # `netplan apply` asks udev as well, which has no devices here.
    vm.run("netplan", "generate")
    hand_over(vm, "systemd-networkd")
    assert "10-netplan-eth0" in vm.run("networkctl", "status", "eth0")
    survives(vm, "networkctl", "reconfigure", "eth0")
