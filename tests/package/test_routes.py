"""What docs/routes.md promises, inside the shipped unit's sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.mesh import NODE, VM
from tests.package.machine import UNIT, Machine, machine
from tests.package.member import make_ready
from tests.package.root import layered

SERVICES, THEIRS = "10.43.0.0/16", "10.44.0.0/16"
FIRST, NOBODY = "10.9.0.9", "10.9.0.7"
DROPPED = "/etc/meshexp/harness.d/60-test.yaml"


@pytest.fixture(scope="module")
def member(installed: tuple[Path, ...]) -> Iterator[Machine]:
    """Services go through a node that may fall silent, or else through the one with the controller."""
    with layered(*installed) as root, machine(root) as found:
        found.configure(network={"node": FIRST, "spare_nodes": [NODE], "pod_cidrs": [], "service_cidrs": [SERVICES]})
        found.boot()
        answer(found)
        yield found


@pytest.fixture
def vm(member: Machine) -> Iterator[Machine]:
    member.wait(lambda: via(member, SERVICES) == FIRST)
    make_ready(member)
    yield member
    member.file(DROPPED).unlink(missing_ok=True)
    reload(member)


def answer(vm: Machine) -> None:
    vm.mesh.node.run("ip", "address", "add", f"{FIRST}/24", "dev", "eth0")


def configure(vm: Machine, **network: object) -> None:
    vm.file(DROPPED).write_text(yaml.safe_dump({"network": network}))
    reload(vm)


def reload(vm: Machine) -> None:
    vm.run("systemctl", "reload", UNIT)


def via(vm: Machine, network: str, table: str = "main") -> str:
    """The node that our route to it names; empty when there is none."""
    shown = vm.run("ip", "route", "show", "table", table, "proto", "77", check=False)
    found = re.search(rf"^{re.escape(network)} via (\S+)", shown, re.MULTILINE)
    return found[1] if found else ""


def test_services_go_through_a_node_that_answers(vm: Machine) -> None:
    vm.mesh.node.run("ip", "address", "del", f"{FIRST}/24", "dev", "eth0")
    vm.wait(lambda: via(vm, SERVICES) == NODE)
    vm.wait(lambda: vm.condition("Routes")["problem"] == "route-node-silent")
    assert FIRST in vm.condition("Routes")["message"] and vm.status()["phase"] == "Ready"
    answer(vm)
    vm.wait(lambda: via(vm, SERVICES) == FIRST)
    vm.wait(lambda: vm.condition("Routes")["problem"] is None)


def test_the_nodes_that_the_controller_tells(vm: Machine) -> None:
    facts = vm.mesh.folder / "facts.yaml"
    facts.write_text(json.dumps({"pod_routes": [{"pod_cidr": "10.42.1.0/24", "via": NODE}]}))
    vm.mesh.stop("controller")
    vm.mesh.start_controller(facts=str(facts))
    vm.wait(lambda: via(vm, "10.42.1.0/24") == NODE)
    facts.write_text(json.dumps({}))
    vm.mesh.stop("controller")
    vm.mesh.start_controller(facts=str(facts))
    vm.wait(lambda: not via(vm, "10.42.1.0/24"))


def test_metric_source_and_a_table_of_its_own(vm: Machine) -> None:
    configure(vm, route_metric=5, source_address=VM, route_table=177)
    vm.wait(lambda: via(vm, SERVICES, "177") == FIRST and not via(vm, SERVICES))
    shown = vm.run("ip", "route", "show", "table", "177")
    assert f"src {VM}" in shown and "metric 5" in shown
    assert "32077:\tfrom all lookup 177 proto 77" in vm.run("ip", "rule")
    vm.file(DROPPED).unlink()
    reload(vm)
    vm.wait(lambda: via(vm, SERVICES) == FIRST and not via(vm, SERVICES, "177"))
    assert "32077" not in vm.run("ip", "rule")


@pytest.mark.parametrize(
    ("before", "network", "code"),
    [
        ((), {"pod_cidrs": ["10.9.0.128/25"]}, "route-refused"),
        ((f"ip route add {THEIRS} via {NOBODY}",), {"pod_cidrs": [THEIRS]}, "route-conflict"),
        (("ip route add 10.44.9.0/24 via 10.9.0.7",), {"pod_cidrs": [THEIRS]}, "route-conflict"),
        (("ip route add 10.45.0.0/16 via 10.9.0.7 table 177",), {"route_table": 177}, "route-conflict"),
        ((), {"node": "10.99.0.1", "spare_nodes": []}, "route-gateway-unreachable"),
        (("ip rule add priority 5270 lookup 52", f"ip route add 10.43.7.0/24 via {NODE} table 52"), {}, "route-elsewhere"),
    ],
    ids=["its own subnet", "the same network", "a part", "a table of others", "no node on a link", "another table first"],
)
def test_what_is_in_the_way_is_said(vm: Machine, before: tuple[str, ...], network: dict[str, object], code: str) -> None:
    """By `status` and `check`, and by `plan` before anything is set; what is others' stays."""
    for command in before:
        vm.run(*command.split())
    theirs = vm.run("ip", "route", "show", "table", "all", "proto", "boot")
    configure(vm, **network)
    vm.wait(lambda: vm.condition("Routes")["problem"] == code)
    assert code in vm.run("meshexp", "check", "-o", "json", check=False)
    if code != "route-elsewhere":  # nothing that a plan would do
        records = json.loads(vm.run("meshexp", "plan", "-o", "json"))
        assert code in [record.get("problem") for record in records], records
    assert vm.run("ip", "route", "show", "table", "all", "proto", "boot") == theirs
    for command in reversed(before):
        vm.run(*command.replace(" add ", " del ").split())
    vm.file(DROPPED).unlink()
    reload(vm)
    vm.wait(lambda: vm.condition("Routes")["problem"] is None)


def test_a_killed_daemons_routes_go_with_cleanup(vm: Machine) -> None:
    configure(vm, route_table=177)
    vm.wait(lambda: via(vm, SERVICES, "177"))
    vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    vm.run("systemctl", "stop", UNIT)
    vm.run("meshexp", "cleanup")
    assert not via(vm, SERVICES, "177") and "77" not in vm.run("ip", "rule")
    vm.run("systemctl", "start", UNIT)
    vm.wait(lambda: via(vm, SERVICES, "177") == FIRST)
