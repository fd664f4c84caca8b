"""Under load from another machine no request fails, whatever is started anew, leaves or dies beneath it."""

from __future__ import annotations

import time

import pytest

from tests.linkerd.conftest import SMILEY, Mesh
from tests.linkerd_lab_endpoints import Endpoints
from tests.waiting import wait

pytestmark = pytest.mark.root
RATE = 50.0  # `python3 -m bench real`: 200
TTL, ROTATIONS = 20, 2  # and there for ten minutes
REFRESHES = ("control_identity_cert_refreshes_total", 'result="ok"')


def test_a_proxy_is_started_anew(mesh: Mesh) -> None:
    before = mesh.one.child("proxy")
    with mesh.client.load(SMILEY, RATE) as load:
        time.sleep(1)
        code, output = mesh.one.meshexp("proxy", "restart")
        assert code == 0, output
        mesh.lab.await_endpoints("smiley", mesh.both)
        time.sleep(2)
    load.check()
    assert mesh.one.child("proxy") != before
    assert {name for name, _ in load.by} == {"smiley-1", "smiley-2"}


def test_one_leaves_and_comes_back(mesh: Mesh) -> None:
    """Its peers hear of it before its proxy stops; the graceful end of a proxy alone would lose a request now and then."""
    name, seen = mesh.one.status()["workload"]["name"], Endpoints(mesh.lab.cluster, "smiley")
    with mesh.client.load(SMILEY, RATE) as load:
        time.sleep(1)
        assert mesh.one.leave() == 0
        assert seen.ready_at(mesh.one.logged("stop the proxy")) == {mesh.other.address}
        assert mesh.one.address not in mesh.lab.workloads()
        assert mesh.lab.endpoints("smiley") == {mesh.other.address: True}
        time.sleep(1)
        mesh.one.join()
        mesh.lab.await_endpoints("smiley", mesh.both)
        time.sleep(2)
    load.check()
    assert mesh.one.status()["workload"]["name"] == name


def test_what_it_leaves_behind(mesh: Mesh) -> None:
    """Nothing: no rule, no route, no process but the application."""
    box = mesh.one.box
    assert mesh.one.leave() == 0
    try:
        assert box.do("nft", "list", "tables") == ""
        assert [line for line in box.do("ip", "route").splitlines() if "dev eth0 proto kernel" not in line] == []
        processes = box.do("ps", "-eo", "comm=").split()
        assert not {"linkerd2-proxy", "spire-server", "spire-agent"} & set(processes)
    finally:
        mesh.one.join()


@pytest.mark.parametrize("child", ["spire-agent", "spire-server"])
def test_spire_is_killed(mesh: Mesh, child: str) -> None:
    machines = (mesh.one, mesh.client)
    before = {vm.name: (vm.child(child), vm.child("proxy")) for vm in machines}
    with mesh.client.load(SMILEY, RATE) as load:
        time.sleep(1)
        for vm in machines:
            vm.kill_child(child)
        for vm in machines:
            killed = before[vm.name][0]
            wait(lambda vm=vm, killed=killed: vm.child(child) not in (None, killed), 30)  # type: ignore[misc]
            vm.await_ready()
        time.sleep(2)
    load.check()
    assert {vm.name: vm.child("proxy") for vm in machines} == {name: proxy for name, (_, proxy) in before.items()}
    assert mesh.lab.endpoints("smiley") == mesh.both


def test_the_controller_is_killed(mesh: Mesh) -> None:
    """Its own lease outlives it; no machine is taken out, neither while it is away nor when it is back."""
    versions = {name: workload["metadata"]["resourceVersion"] for name, workload in mesh.lab.workloads().items()}
    with mesh.client.load(SMILEY, RATE) as load:
        time.sleep(1)
        mesh.lab.kill_controller()
        wait(lambda: mesh.one.status()["phase"] == "Degraded")
        assert mesh.lab.endpoints("smiley") == mesh.both
        mesh.lab.start_controller()
        mesh.lab.await_controller()
        mesh.settle()
        time.sleep(5)
    load.check()
    assert {name: workload["metadata"]["resourceVersion"] for name, workload in mesh.lab.workloads().items()} == versions


def test_a_proxy_is_killed(mesh: Mesh) -> None:
    """What it held is lost, which shows that the load can tell; nothing else is."""
    before, rate = mesh.one.child("proxy"), 4 * RATE
    with mesh.client.load(SMILEY, rate) as load:
        time.sleep(1)
        mesh.one.kill_child("proxy")
        wait(lambda: mesh.one.child("proxy") not in (None, before))
        mesh.settle()
        time.sleep(1)
    assert 0 < len(load.failed) < rate / 2, load.failed


def test_identities_are_rotated(mesh: Mesh) -> None:
    machines = (mesh.one, mesh.other, mesh.client)
    for vm in machines:
        assert vm.leave() == 0
        vm.configure(local={"svid_ttl": f"{TTL}s"})
    for vm in machines:
        vm.join()
    mesh.settle()
    started = {vm.name: vm.child("proxy") for vm in machines}
    refreshed = {vm.name: vm.metrics(*REFRESHES) for vm in machines}
    with mesh.client.load(SMILEY, RATE) as load:
        wait(lambda: all(vm.metrics(*REFRESHES) >= refreshed[vm.name] + ROTATIONS for vm in machines), 90, every=1.0)
    load.check()
    assert {vm.name: vm.child("proxy") for vm in machines} == started
