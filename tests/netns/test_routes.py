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

async def main(wanted):
    desired = tuple(Route(ipaddress.ip_network(n), ipaddress.ip_address(v)) for n, v in wanted) if wanted is not None else None
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

asyncio.run(main(json.loads(sys.argv[1])))
"""


def reconcile(here: Namespace, wanted: list[list[str]] | None) -> dict[str, object]:
    output = here.run(sys.executable, "-c", SCRIPT, json.dumps(wanted), env={**os.environ, "PYTHONPATH": str(ROOT)})
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
        result = subprocess.run([*argv, json.dumps(WANTED)], capture_output=True, text=True, check=False, env=environment)
        assert "the kernel refused" in result.stdout


@pytest.mark.parametrize("number", [200])
def test_many_routes(number: int) -> None:
    with namespace() as vm, namespace() as node:
        connect(vm, node, LINK)
        wanted = [[f"10.{100 + i // 256}.{i % 256}.0/24", "10.9.0.1"] for i in range(number)]
        assert len(reconcile(vm, wanted)["actions"]) == number  # type: ignore[arg-type]
        assert reconcile(vm, wanted)["actions"] == []
