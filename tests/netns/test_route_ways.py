"""Rules and tables of other programs, such as a VPN's, take the cluster's networks another way: `status` and `check` say so."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.mesh import NODE, Mesh, mesh
from tests.namespaces import connect, namespace

pytestmark = pytest.mark.root
ELSEWHERE = "10.8.0.1"


@pytest.fixture
def vm() -> Iterator[Mesh]:
    """With a second uplink."""
    with mesh() as found, namespace() as other:
        connect(found.vm, other, [("10.8.0.2/24", f"{ELSEWHERE}/24")], name="eth1")
        found.start_controller()
        found.start_daemon()
        found.wait_ready()
        yield found


@pytest.mark.parametrize(
    ("network", "asked", "ours"),
    [
        # As Tailscale does it for a network of which it accepts the route.
        ("10.42.0.0/24", "10.42.0.1", "10.42.0.0/24"),
        ("10.43.7.0/24", "10.43.7.1", "10.43.0.0/16"),
        ("default", "10.42.0.1", "10.42.0.0/24"),
    ],
)
def test_another_table_is_asked_first(vm: Mesh, network: str, asked: str, ours: str) -> None:
    vm.vm.run("ip", "rule", "add", "priority", "5270", "lookup", "52")
    vm.vm.run("ip", "route", "add", network, "via", ELSEWHERE, "table", "52")
    vm.wait_problem("Routes", "route-elsewhere")
    said = vm.condition("Routes")
    assert f"{asked} goes via {ELSEWHERE} dev eth1, and not via {NODE} dev eth0" in said["message"]
    assert f"`ip route get {asked}`" in said["hint"]
    checked = vm.meshexp("check")
    assert "× the kernel takes the routes to the cluster" in checked.stdout and asked in checked.stdout, checked.stdout
    (repair,) = re.findall(r"`(ip rule add to [^`]+)`", said["hint"])
    assert f"to {ours} " in repair
    before = vm.status()["counters"]["cycles"]
    vm.vm.run(*repair.split())
    vm.wait(lambda: vm.condition("Routes")["problem"] is None or ours not in vm.condition("Routes")["hint"])
    if network != "default":
        vm.wait_ready()
        assert "√ the kernel takes the routes to the cluster" in vm.meshexp("check").stdout
    assert vm.status()["counters"]["cycles"] < before + 20, "the look wakes nobody"


def test_a_rule_that_lets_nothing_through(vm: Mesh) -> None:
    vm.vm.run("ip", "rule", "add", "to", "10.43.0.0/16", "priority", "100", "prohibit")
    vm.wait_problem("Routes", "route-elsewhere")
    assert "10.43.0.1 goes nowhere (" in vm.condition("Routes")["message"]
    vm.vm.run("ip", "rule", "del", "priority", "100")
    vm.wait_ready()
