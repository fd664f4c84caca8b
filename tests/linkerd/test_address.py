"""A machine gets another address: peers are told, and its proxy asks the control plane from the new one at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.linkerd.conftest import Mesh
from tests.linkerd_lab_vm import APP_PORT, NAMESPACE, Vm
from tests.waiting import wait

pytestmark = pytest.mark.root


@pytest.fixture
def never_called(mesh: Mesh) -> Iterator[str]:
    """A Service of this test's own: its name."""
    cluster, metadata = mesh.lab.cluster, {"name": "never-called", "namespace": NAMESPACE}
    spec = {"selector": {"service": "face"}, "ports": [{"name": "http", "port": 80, "targetPort": APP_PORT}]}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    name = f"never-called.{NAMESPACE}.svc.cluster.local"
    cluster.name(name, cluster.get("service", "never-called", "-n", NAMESPACE)["spec"]["clusterIP"])
    mesh.lab.await_endpoints("never-called", {mesh.client.address: True})
    yield name
    cluster.kubectl("delete", "service", "never-called", "-n", NAMESPACE)


def move(vm: Vm, address: str) -> None:
    """The old one is gone before the new one is there, as by `dhclient -r; dhclient`."""
    vm.box.do("ip", "address", "del", f"{vm.address}/24", "dev", "eth0")
    vm.box.do("ip", "address", "add", f"{address}/24", "dev", "eth0")
    vm.address = address


def test_another_address(mesh: Mesh, never_called: str) -> None:
    vm, proxy, before = mesh.one, mesh.one.child("proxy"), mesh.one.address
    try:
        move(vm, "10.77.0.99")
        mesh.lab.await_endpoints("smiley", mesh.both)
        # The proxy looks it up now, by the control plane.
        wait(lambda: vm.curl(f"http://{never_called}/")[0] == "200", why=lambda: vm.box.log("harness")[-4000:])
        vm.await_ready()
        assert vm.child("proxy") == proxy
    finally:
        move(vm, before)
    mesh.settle()
