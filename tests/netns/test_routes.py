"""Routes on the real kernel: ours come and go, others' are never touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.namespaces import Namespace, connect, namespace

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import asyncio, ipaddress, json, sys
from harness.clock import SystemClock
from harness.specs import Route
from harness.errors import HarnessError
from harness.reconcilers.routes import Routes
from harness.system.netlink import Netlink

async def main(wanted, metric=0, table=254, source=None, keep=None):
    source, keep = source and ipaddress.ip_address(source), (ipaddress.ip_address(keep),) if keep else ()
    desired = wanted if wanted is None else tuple(
        Route(ipaddress.ip_network(n), ipaddress.ip_address(v), metric=metric, table=table, source=source, keep=keep)
        for n, v in wanted
    )
    routes = Routes(Netlink(), SystemClock(), lambda reason: None)
    said, errors = [], []
    for action in routes.diff(desired, await routes.observe()):
        said.append(str(action))
        try:
            await routes.apply(action)
        except HarnessError as error:
            errors.append(error.message)
    condition = routes.condition(desired, await routes.observe())
    print(json.dumps({"actions": said, "errors": errors, "truth": condition.truth.value,
                      "problem": condition.problem.code if condition.problem else None, "message": condition.message}))

asyncio.run(main(*json.loads(sys.argv[1])[:1], **json.loads(sys.argv[1])[1]))
"""


def reconcile(here: Namespace, wanted: list[list[str]] | None, **settings: object) -> dict[str, object]:
    output = here.run(sys.executable, "-c", SCRIPT, json.dumps([wanted, settings]), env={**os.environ, "PYTHONPATH": str(ROOT)})
    return dict(json.loads(output))


def table(here: Namespace) -> str:
    return here.run("ip", "-4", "route") + here.run("ip", "-6", "route")


WANTED = [["10.42.0.0/16", "10.9.0.1"], ["10.43.0.0/16", "10.9.0.1"], ["fd42::/48", "fd09::1"]]
LINK = [("10.9.0.2/24", "10.9.0.1/24"), ("fd09::2/64", "fd09::1/64")]


def test_add_again_remove() -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        before = table(vm)
        first = reconcile(vm, WANTED)
        assert (len(first["actions"]), first["truth"]) == (3, "True")  # type: ignore[arg-type]
        assert "10.42.0.0/16 via 10.9.0.1 dev eth0 proto 77" in vm.run("ip", "route")
        assert reconcile(vm, WANTED)["actions"] == [], "a second run changes nothing"
        changed = reconcile(vm, WANTED[:1])
        assert sorted(changed["actions"]) == ["delete route 10.43.0.0/16 via 10.9.0.1", "delete route fd42::/48 via fd09::1"]  # type: ignore[call-overload]
        reconcile(vm, None)
        assert table(vm) == before


def test_a_route_of_somebody_else_is_left_alone_and_named() -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        vm.run("ip", "route", "add", "10.42.0.0/16", "via", "10.9.0.7")
        result = reconcile(vm, WANTED)
        assert result["problem"] == "route-conflict"
        assert "10.42.0.0/16 via 10.9.0.7" in str(result["message"])
        reconcile(vm, None)
        assert "10.42.0.0/16 via 10.9.0.7" in vm.run("ip", "route")


def test_a_node_on_no_link_is_said_and_nothing_is_set() -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        before = table(vm)
        result = reconcile(vm, [["10.42.0.0/16", "192.168.77.1"]])
        assert (result["actions"], result["problem"]) == ([], "route-gateway-unreachable")
        assert table(vm) == before


def test_without_the_capability_it_is_a_permission_error() -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        argv = [*vm.enter, "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", SCRIPT]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        result = subprocess.run([*argv, json.dumps([WANTED, {}])], capture_output=True, text=True, check=False, env=environment)
        assert "the kernel refused" in result.stdout


@pytest.mark.parametrize("number", [200])
def test_many_routes(number: int) -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        wanted = [[f"10.{100 + i // 256}.{i % 256}.0/24", "10.9.0.1"] for i in range(number)]
        assert len(reconcile(vm, wanted)["actions"]) == number  # type: ignore[arg-type]
        assert reconcile(vm, wanted)["actions"] == []


def test_metric_table_and_source_on_the_kernel_and_removal_by_ownership() -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        vm.run("ip", "address", "add", "10.9.0.66/24", "dev", "eth0")
        vm.run("ip", "rule", "add", "to", "192.0.2.0/24", "lookup", "99", "priority", "100")
        before, rules = table(vm), vm.run("ip", "rule")
        settings = {"metric": 50, "table": 177, "source": "10.9.0.66"}
        first = reconcile(vm, WANTED[:1], **settings)
        assert first["actions"] == [
            "add route 10.42.0.0/16 via 10.9.0.1 src 10.9.0.66 metric 50 table 177",
            "add rule for IPv4: table 177 before main",
        ]
        assert "10.42.0.0/16 via 10.9.0.1 dev eth0 proto 77 src 10.9.0.66 metric 50" in vm.run(
            "ip", "route", "show", "table", "177"
        )
        assert "src 10.9.0.66" in vm.run("ip", "route", "get", "10.42.3.4"), "the kernel takes this way"
        assert reconcile(vm, WANTED[:1], **settings)["actions"] == []
        assert reconcile(vm, WANTED[:1], **{**settings, "source": None})["actions"] == [
            "replace route 10.42.0.0/16 via 10.9.0.1 metric 50 table 177"
        ]
        reconcile(vm, [*WANTED[:1], WANTED[2]], metric=70)
        assert (vm.run("ip", "route", "show", "table", "177"), vm.run("ip", "rule")) == ("", rules), (
            "another table: the old is left"
        )
        assert "metric 70" in vm.run("ip", "-6", "route", "show", "fd42::/48")
        reconcile(vm, [*WANTED[:1], WANTED[2]], metric=0, table=178)
        assert "fd42::/48" in vm.run("ip", "-6", "route", "get", "fd42::5", "fibmatch")
        reconcile(vm, None)
        assert (table(vm), vm.run("ip", "rule"), vm.run("ip", "-6", "rule").count("lookup")) == (before, rules, 2)
        assert vm.run("ip", "route", "show", "table", "178") == ""


def test_cleanup_finds_what_a_dead_process_left_in_any_table() -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        vm.run("ip", "route", "add", "10.7.0.0/16", "via", "10.9.0.7", "table", "177")
        before = vm.run("ip", "route", "show", "table", "all"), vm.run("ip", "rule")
        for where in ("main", "177", "40000"):
            vm.run("ip", "route", "add", "10.42.0.0/16", "via", "10.9.0.1", "table", where, "proto", "77")
        vm.run("ip", "rule", "add", "lookup", "40000", "priority", "32077", "protocol", "77")
        reconcile(vm, None)
        assert (vm.run("ip", "route", "show", "table", "all"), vm.run("ip", "rule")) == before


def test_a_table_that_others_use_is_left_alone() -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        vm.run("ip", "route", "add", "default", "via", "10.9.0.7", "table", "177")
        result = reconcile(vm, WANTED[:1], table=177)
        assert (result["actions"], result["problem"]) == ([], "route-conflict")
        assert "in the routing table that is to be ours" in str(result["message"])


def test_a_source_that_is_not_this_machines_is_refused_by_the_kernel() -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        result = reconcile(vm, WANTED[:1], source="10.9.0.99")
        assert (result["truth"], result["problem"]) == ("False", "route-failed")
        assert result["errors"] == ["the kernel refused: Invalid argument"]


def test_others_inside_a_wanted_network_are_named_and_ours_is_set_beside_them() -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        vm.run("ip", "route", "add", "10.42.7.0/24", "via", "10.9.0.7")
        vm.run("ip", "address", "add", "10.43.5.1/24", "dev", "eth0")
        result = reconcile(vm, WANTED)
        assert (len(result["actions"]), result["truth"], result["problem"]) == (3, "True", "route-conflict")  # type: ignore[arg-type]
        for text in (
            "10.42.7.0/24 via 10.9.0.7 (proto 3) takes traffic for 10.42.0.0/16",
            "10.43.5.0/24 (proto 2) takes traffic for",
        ):
            assert text in str(result["message"])


@pytest.mark.parametrize(
    ("wanted", "keep", "hides"),
    [
        ("10.9.0.128/25", None, "10.9.0.0/24, a subnet of this machine"),
        ("10.9.0.0/24", None, "10.9.0.0/24, a subnet of this machine"),
        ("172.20.0.0/16", None, "172.20.0.1, a gateway of this machine"),
        ("198.51.100.0/24", "198.51.100.7", "198.51.100.7, the controller"),
        ("10.9.0.0/16", None, None),
        ("198.51.100.0/24", "203.0.113.7", None),
    ],
)
def test_what_would_hide_this_machines_own_networks_is_refused(wanted: str, keep: str | None, hides: str | None) -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        vm.run("ip", "route", "add", "172.16.0.0/12", "dev", "eth0")  # where the gateway is, on no subnet of ours
        vm.run("ip", "route", "add", "default", "via", "172.20.0.1")
        before = table(vm)
        result = reconcile(vm, [[wanted, "10.9.0.1"], WANTED[0]], keep=keep)
        if hides is None:
            assert result["problem"] != "route-refused" and f"add route {wanted} via 10.9.0.1" in result["actions"]  # type: ignore[operator]
        else:
            assert (result["truth"], result["problem"]) == ("False", "route-refused")
            assert f"{wanted} would hide {hides}" in str(result["message"])
            assert result["actions"] == ["add route 10.42.0.0/16 via 10.9.0.1"], "the others are set"
        reconcile(vm, None)
        assert table(vm) == before
