"""The package on a booted Debian, in the real mesh: its harness is started anew and upgraded under load, and no request fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.linkerd.conftest import SMILEY, Mesh
from tests.linkerd_lab_package import ADDRESS, GROUP, HOST, calls, packaged
from tests.package.conftest import debian, debs, installed  # noqa: F401
from tests.package.debs import NEWER, Debs
from tests.package.machine import PROXY, UNIT, UPGRADE, Machine

pytestmark = pytest.mark.root
RATE = 50.0  # each way; `python3 -m bench real`: 200


@pytest.fixture
def vm(mesh: Mesh, installed: tuple[Path, ...]) -> Iterator[Machine]:  # noqa: F811
    with packaged(mesh.lab, *installed) as found:
        yield found


def test_the_harness_is_started_anew_and_upgraded(mesh: Mesh, vm: Machine, debs: Debs) -> None:  # noqa: F811
    newer = vm.put(debs.newer)
    proxy, told = vm.pid(PROXY), mesh.lab.workloads()[ADDRESS]["metadata"]
    by_mutual_tls = ('direction="outbound"', 'tls="true"', f'server_id="spiffe://root.linkerd.cluster.local/{GROUP}"')
    before = mesh.client.metrics("request_total", *by_mutual_tls)
    with mesh.client.load(HOST, RATE) as inward, calls(vm, SMILEY, RATE) as outward:
        time.sleep(1)
        vm.change_daemon("systemctl", "restart", UNIT)
        vm.change_daemon(*UPGRADE, newer, version=NEWER)
        time.sleep(1)
    for load in (inward, outward):
        load.check()
    assert vm.pid(PROXY) == proxy, "the same process"
    assert mesh.lab.workloads()[ADDRESS]["metadata"] == told, f"Linkerd was told of it\n{vm.journal()}"
    assert mesh.client.metrics("request_total", *by_mutual_tls) == before + inward.requests
    assert {name for name, _ in outward.by} == {mesh.one.name, mesh.other.name}
    vm.run("systemctl", "stop", UNIT)
    assert ADDRESS not in mesh.lab.workloads()
