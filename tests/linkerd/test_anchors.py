"""The mesh's trust anchor is rotated beneath machines that serve: proxies one after the other, and no request fails."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests import linkerd_lab_rotation as rotation
from tests.linkerd.conftest import SMILEY, Mesh
from tests.linkerd_lab_endpoints import Endpoints
from tests.linkerd_lab_vm import Vm
from tests.waiting import wait

pytestmark = pytest.mark.root
RATE = 20.0
ANCHORS = "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"


def proxies(*vms: Vm) -> list[int | None]:
    return [vm.child("proxy") for vm in vms]


def await_replaced(mesh: Mesh, before: list[int | None]) -> None:
    """Every proxy of smiley runs anew, and is back."""
    pairs = list(zip((mesh.one, mesh.other), before, strict=True))
    wait(lambda: all(vm.child("proxy") not in (None, old) for vm, old in pairs))
    mesh.settle()


def reconfigure(mesh: Mesh, **sections: Any) -> None:
    """The one that calls has its proxy anew, and is back."""
    own = mesh.client.child("proxy")
    mesh.client.configure(**sections)
    mesh.client.box.send("harness", signal.SIGHUP)
    wait(lambda: mesh.client.child("proxy") not in (None, own))
    mesh.settle()


def roots_in_use(vm: Vm) -> int:
    """By SPIRE."""
    return vm.box.path("/run/meshexp/spire/server/bundle.pem").read_text().count("BEGIN CERTIFICATE")


def test_the_anchors_are_rotated(mesh: Mesh) -> None:
    lab, machines = mesh.lab, (mesh.one, mesh.other)
    rotation.new_anchor(lab)
    both = "".join((lab.cluster.pki / f"{name}.crt").read_text() for name in ("old", "new"))
    # The one that calls knows both from the start: without others of its group a proxy that starts anew cuts what it carries.
    reconfigure(mesh, proxy={"env": {ANCHORS: both}})
    seen = Endpoints(lab.cluster, "smiley")
    with mesh.client.load(SMILEY, RATE) as load:
        before = proxies(*machines)
        rotation.trust(lab, "old", "new")
        await_replaced(mesh, before)
        assert [roots_in_use(vm) for vm in machines] == [2, 2]
        assert "anchors-behind" in mesh.one.meshexp("status")[1], "its own file has only the old one"
        before = proxies(*machines)
        rotation.new_issuers(lab)
        mesh.settle()
        for vm in (*machines, mesh.client):
            rotation.new_intermediate(lab, vm)
            wait(lambda vm=vm: "its server has been started again" in vm.box.log("harness"), 30)  # type: ignore[misc]
        time.sleep(3)
        mesh.settle()
        assert proxies(*machines) == before, "a new certificate is no reason to start anew"
        rotation.trust(lab, "new")
        await_replaced(mesh, before)
        assert [roots_in_use(vm) for vm in machines] == [1, 1]
        time.sleep(2)
    load.check()
    assert min(len(ready) for _, ready in seen.seen) == 1, "one after the other, and never none"
    assert {name for name, _ in load.by} == {"smiley-1", "smiley-2"}
    reconfigure(mesh)
