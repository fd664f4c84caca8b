"""A link of this machine's own has addresses of the cluster, as Docker's 172.17.0.0/16 may: calls to what is there are left
alone by the redirect, as by the routes. All others stay in the proxy, also when the link goes and nobody changes the rules."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial

import pytest

from tests import halted
from tests.mesh import NODE, Mesh, mesh
from tests.namespaces import Namespace, connect, namespace

pytestmark = pytest.mark.root
PODS, CONTAINERS, CONTAINER, POD = "172.16.0.0/12", "172.17.0.0/16", "172.17.0.2", "172.18.0.2"
PORT = 9000


@pytest.fixture
def lab() -> Iterator[tuple[Mesh, Namespace]]:
    with mesh() as vm, namespace() as container:
        connect(vm.vm, container, [("172.17.0.1/16", f"{CONTAINER}/16")], name="docker0")
        for address in POD, CONTAINER:  # the last is a pod's too
            vm.node.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        for name, where in ("pod", vm.node), ("container", container):
            vm.start(name, where, sys.executable, "-c", halted.SERVE, name, f"0.0.0.0/{PORT}")
            vm.wait(lambda where=where: f":{PORT}" in where.run("ss", "-ltnH"))  # type: ignore[misc]
        vm.start_controller()
        yield vm, container


def call(vm: Mesh, address: str) -> str:
    return halted.called(vm.vm.run, sys.executable, [("", address, PORT)])[0]


def stopped(pid: int) -> AbstractContextManager[None]:
    return halted.halted(partial(os.kill, pid))


def ready(vm: Mesh) -> None:
    vm.wait(lambda: vm.status().get("ready"))


@pytest.mark.parametrize("pods", [PODS, CONTAINERS, "172.17.0.0/24"], ids=["wider", "the same", "a part"])
def test_this_machines_own_containers_are_called_past_the_proxy(lab: tuple[Mesh, Namespace], pods: str) -> None:
    vm, _ = lab
    vm.configure(network={"pod_cidrs": [pods]})
    vm.start_daemon()
    ready(vm)
    routed = pods == PODS
    vm.wait_problem("Routes", "route-conflict" if routed else "route-refused")
    assert (f"{pods} via {NODE}" in vm.vm.run("ip", "route", "show", "proto", "77")) is routed
    with stopped(vm.proxy_pid()):
        assert call(vm, CONTAINER) == "container"
        if routed:
            assert call(vm, POD) == halted.BY_PROXY
    assert vm.meshexp("redirect", "test").returncode == 0
    assert "# redirect" not in vm.meshexp("plan").stdout


def test_when_the_link_goes_nothing_for_a_pod_leaves_past_the_proxy(lab: tuple[Mesh, Namespace]) -> None:
    """Also before, or without, a change of the rules: they go by the way that the kernel has chosen."""
    vm, _ = lab
    vm.configure(network={"pod_cidrs": [PODS]})
    vm.start_daemon()
    ready(vm)
    with stopped(vm.proxy_pid()):
        assert call(vm, CONTAINER) == "container"
        with stopped(vm.processes["harness"].pid):
            vm.vm.run("ip", "link", "del", "docker0")
            assert f"via {NODE}" in vm.vm.run("ip", "route", "get", CONTAINER)
            assert call(vm, CONTAINER) == halted.BY_PROXY
    vm.wait(lambda: "docker0" not in vm.vm.run("nft", "list", "ruleset"))


def test_a_link_that_comes_later_counts_and_other_mesh_machines_stay_in_the_proxy(lab: tuple[Mesh, Namespace]) -> None:
    vm, container = lab
    vm.vm.run("ip", "link", "del", "docker0")
    vm.configure(network={"pod_cidrs": [PODS], "mesh_cidrs": ["172.17.128.0/17"]})
    vm.start_daemon()
    vm.wait_ready()
    connect(vm.vm, container, [("172.17.0.1/16", f"{CONTAINER}/16")], name="docker0")
    container.run("ip", "address", "add", "172.17.128.2/32", "dev", "docker0")
    vm.wait(lambda: "docker0" in vm.vm.run("nft", "list", "ruleset"))
    with stopped(vm.proxy_pid()):
        assert call(vm, CONTAINER) == "container"
        assert call(vm, "172.17.128.2") == halted.BY_PROXY
