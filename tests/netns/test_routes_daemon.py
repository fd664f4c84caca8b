"""The daemon's routes: nodes come and go in the controller's facts, one dies; plan and status name what is in the way."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.mesh import NODE, Mesh, mesh
from tests.namespaces import Namespace, connect, namespace

OTHER_NODE = "10.8.0.1"
PODS = {NODE: "10.42.0.0/24", OTHER_NODE: "10.42.1.0/24"}
SERVICES = "10.43.0.0/16"


@pytest.fixture
def lab() -> Iterator[tuple[Mesh, Namespace]]:
    """A machine and two nodes, each on a link of its own; only the first has the controller."""
    with mesh() as vm, namespace() as other:
        connect(vm.vm, other, [("10.8.0.2/24", f"{OTHER_NODE}/24")], name="eth1")
        vm.configure(network={"node": None, "pod_cidrs": [], "service_cidrs": []})
        yield vm, other


def tell(vm: Mesh, *nodes: str, services: str = SERVICES) -> None:
    facts = {"pod_routes": [{"pod_cidr": PODS[node], "via": node} for node in nodes], "service_cidrs": [services]}
    (vm.folder / "facts.yaml").write_text(yaml.safe_dump(facts))
    if "controller" in vm.processes:
        vm.processes["controller"].send_signal(signal.SIGHUP)


def ours(vm: Mesh) -> dict[str, str]:
    return dict(re.findall(r"(\S+) via (\S+)", vm.vm.run("ip", "route", "show", "proto", "77")))


def joined(vm: Mesh) -> None:
    vm.start_controller(facts=f"{vm.folder}/facts.yaml")
    vm.start_daemon()
    vm.wait_ready()


def test_nodes_come_and_go_and_services_go_through_one_that_answers(lab: tuple[Mesh, Namespace]) -> None:
    vm, other = lab
    tell(vm, NODE)
    joined(vm)
    assert ours(vm) == {PODS[NODE]: NODE, SERVICES: NODE}
    began = time.monotonic()
    tell(vm, OTHER_NODE, NODE)
    vm.wait(lambda: ours(vm) == {PODS[NODE]: NODE, PODS[OTHER_NODE]: OTHER_NODE, SERVICES: OTHER_NODE})
    print(f"\na node added: {time.monotonic() - began:.2f} s")
    began = time.monotonic()
    other.run("ip", "address", "del", f"{OTHER_NODE}/24", "dev", "eth1")
    vm.wait(lambda: ours(vm).get(SERVICES) == NODE)
    print(f"services through the other: {time.monotonic() - began:.2f} s")
    vm.wait_problem("Routes", "route-node-silent")
    vm.wait_ready()  # a node that others stand in for takes no traffic from this machine
    assert OTHER_NODE in vm.condition("Routes")["message"]
    assert "via" not in vm.meshexp("plan").stdout, "plan wants what the daemon did"
    began = time.monotonic()
    tell(vm, NODE)
    vm.wait(lambda: ours(vm) == {PODS[NODE]: NODE, SERVICES: NODE})
    print(f"a node removed: {time.monotonic() - began:.2f} s")
    vm.wait_problem("Routes", None)
    assert vm.stop("harness") == 0
    assert ours(vm) == {}


def test_plan_and_status_name_what_is_in_the_way(lab: tuple[Mesh, Namespace]) -> None:
    vm, _ = lab
    vm.configure(network={"node": NODE, "pod_cidrs": ["10.42.0.0/16", "10.9.0.128/25"], "service_cidrs": [SERVICES]})
    vm.vm.run("ip", "route", "add", "10.42.9.0/24", "via", "10.8.0.7")
    before = vm.vm.run("ip", "route")
    plan = vm.meshexp("plan").stdout
    refused = "10.9.0.128/25 would hide 10.9.0.0/24, a subnet of this machine"
    conflict = "10.42.9.0/24 via 10.8.0.7 (proto 3) takes traffic for 10.42.0.0/16"
    assert plan.index(f"# routes: × setting the routes: {refused} (`ip route` shows") < plan.index("# routes: add route"), plan
    assert "# routes: ‼ setting the routes: left alone, not ours: route " + conflict in plan
    assert "10.9.0.128/25 via" not in plan and vm.vm.run("ip", "route") == before
    records: list[dict[str, Any]] = json.loads(vm.meshexp("plan", "--output", "json").stdout)
    assert [record["problem"] for record in records if "problem" in record] == ["route-refused", "route-conflict"]
    tell(vm, NODE)
    vm.start_controller(facts=f"{vm.folder}/facts.yaml")
    vm.start_daemon()
    vm.wait_problem("Routes", "route-refused")
    assert refused in vm.condition("Routes")["message"]
    assert "10.9.0.128/25" not in ours(vm) and "10.42.0.0/16" in ours(vm)
    shown = vm.meshexp("status").stdout
    assert refused in shown, shown


def test_a_killed_daemons_routes_and_rules_go_with_cleanup(lab: tuple[Mesh, Namespace]) -> None:
    vm, _ = lab
    before = vm.vm.run("ip", "route", "show", "table", "all"), vm.vm.run("ip", "rule")
    vm.configure(network={"node": NODE, "service_cidrs": [SERVICES], "route_table": 177, "route_metric": 5})
    tell(vm, NODE)
    joined(vm)
    assert f"{SERVICES} via {NODE} dev eth0 proto 77 metric 5" in vm.vm.run("ip", "route", "show", "table", "177")
    vm.stop("harness", signal.SIGKILL)
    cleaned: subprocess.CompletedProcess[str] = vm.meshexp("cleanup")
    assert cleaned.returncode == 0, cleaned.stderr
    assert (vm.vm.run("ip", "route", "show", "table", "all"), vm.vm.run("ip", "rule")) == before
