"""A second workload on a machine of the real mesh: peers dial its proxy's own port, and know both workloads apart."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests import linkerd_lab_pki as pki
from tests.linkerd.conftest import SMILEY, Mesh
from tests.linkerd_lab_cluster import TRUST_DOMAIN
from tests.linkerd_lab_vm import NAMESPACE, PYTHON, TRAFFIC, Vm
from tests.waiting import wait

pytestmark = pytest.mark.root
API, API_PORT, API_UID, PROXY_UID = f"api.{NAMESPACE}.svc.cluster.local", 8001, 2115, 2116
ADMIN, INBOUND = 4291, 4243
SPIFFE_ID = f"spiffe://{TRUST_DOMAIN}/api"
INSTANCE = ("--instance", "api")


def group(mesh: Mesh) -> None:
    http = {"port": API_PORT, "path": "/ready", "host": "127.0.0.1", "scheme": "HTTP"}
    mesh.lab.group(
        "api",
        template={"metadata": {"labels": {"service": "api"}}, "ports": [{"name": "http", "port": API_PORT}]},
        probes=[{"httpGet": http, "initialDelaySeconds": 0, "periodSeconds": 1, "failureThreshold": 1}],
    )
    service = {"selector": {"service": "api"}, "ports": [{"name": "http", "port": 80, "targetPort": API_PORT}]}
    metadata = {"name": "api", "namespace": NAMESPACE}
    mesh.lab.cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})


def configure(vm: Vm) -> None:
    """Beside what the machine's first workload has, with a SPIRE of its own."""
    pki.for_machine(vm.folder / "ca-api", vm.cluster.pki / "ta", f"{vm.name}-api")
    first: dict[str, Any] = yaml.safe_load((vm.folder / "etc" / "harness.yaml").read_text())
    authority = {"ca_cert": f"{vm.folder}/ca-api/ca.crt", "ca_key": f"{vm.folder}/ca-api/ca.key", "port": 8181}
    own = {
        "workload": {"group": "api", "namespace": NAMESPACE, "users": [str(API_UID)]},
        "identity": {**first["identity"], "local": authority},
        "proxy": {
            **first["proxy"], "user": str(PROXY_UID), "inbound_port": INBOUND, "outbound_port": 4240, "admin_port": ADMIN,
        },
        "metrics": {"listen": "127.0.0.1:4292"},
    }  # fmt: skip
    folder = vm.folder / "etc" / "instances" / "api"
    folder.mkdir(parents=True)
    (folder / "harness.yaml").write_text(yaml.safe_dump({**first, **own}))


def status(vm: Vm) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(vm.box.path("/run/meshexp-api/status.json").read_text()))
    return {}


@pytest.fixture
def vm(mesh: Mesh) -> Iterator[Vm]:
    """The client's machine, which is `face` first, and then `api` too."""
    here = mesh.client
    group(mesh)
    configure(here)
    unready = str(here.folder / "api-unready")
    here.box.start("app-api", PYTHON, str(TRAFFIC), "serve", "api-1", str(API_PORT), unready, uid=API_UID)
    alone = here.child("proxy")
    here.box.start("harness-api", *here.command(*INSTANCE, "run"), env=here.environment)
    try:
        wait(lambda: status(here).get("phase") == "Ready", 60, lambda: here.box.log("harness-api")[-6000:])
        here.await_ready()
        assert here.child("proxy") == alone, "the first's proxy goes on"
        yield here
    finally:
        code, output = here.meshexp("leave", *INSTANCE)
        here.box.processes.pop("harness-api").wait(60)
        here.box.stop("app-api")
        (here.folder / "etc/instances/api/harness.yaml").unlink()
        for kind in ("externalgroups.workload.meshexp.io", "service"):
            mesh.lab.cluster.kubectl("delete", kind, "api", "-n", NAMESPACE)
        assert code == 0, output


def curl(vm: Vm, uid: int, url: str) -> tuple[str, str]:
    body, _, code = vm.box.run("curl", "-sS", "-m8", "-w", "\n%{http_code}", url, uid=uid)[1].rpartition("\n")
    return code, body


def seen_inbound(vm: Vm, client: str) -> bool:
    """By the proxy of `api`."""
    text = vm.box.do("curl", "-fsS", "-m5", f"http://127.0.0.1:{ADMIN}/metrics")
    labels = ('direction="inbound"', 'tls="true"', f'client_id="{client}"', f'target_addr="{vm.address}:{API_PORT}"')
    lines = [line for line in text.splitlines() if line.startswith("request_total") and all(label in line for label in labels)]
    return sum(float(line.rpartition(" ")[2]) for line in lines) > 0


def test_two_workloads_on_one_machine_are_two_to_their_peers(mesh: Mesh, vm: Vm) -> None:
    objects = mesh.lab.cluster.get("externalworkloads", "-n", NAMESPACE, "-l", "service=api")["items"]
    ports = [(port["name"], port["port"]) for port in objects[0]["spec"]["ports"]]
    assert ports == [("http", API_PORT), ("linkerd-proxy", INBOUND)]
    mesh.lab.await_endpoints("api", {vm.address: True})
    mesh.lab.await_endpoints("face", {vm.address: True})

    wait(lambda: mesh.one.curl(f"http://{API}/") == ("200", "api-1"))
    outbound = ('direction="outbound"', 'tls="true"', f'server_id="{SPIFFE_ID}"', 'dst_service="api"')
    assert mesh.one.metrics("request_total", *outbound) > 0
    assert seen_inbound(vm, mesh.one.spiffe_id)
    assert mesh.one.curl(f"http://face.{NAMESPACE}.svc.cluster.local/") == ("200", vm.name), "the first is the first"

    # From one workload to the other, and out: by the user of the program.
    assert vm.curl(f"http://{API}/") == ("200", "api-1")
    assert seen_inbound(vm, vm.spiffe_id)
    assert curl(vm, API_UID, f"http://face.{NAMESPACE}.svc.cluster.local/") == ("200", vm.name)
    inbound = ('direction="inbound"', 'tls="true"', f'client_id="{SPIFFE_ID}"')
    assert vm.metrics("request_total", *inbound) > 0
    assert curl(vm, API_UID, f"http://{SMILEY}/")[0] == "200"
    assert sum(one.metrics("request_total", *inbound) for one in (mesh.one, mesh.other)) > 0

    # Its probe takes it out, and nobody else.
    (vm.folder / "api-unready").touch()
    mesh.lab.await_endpoints("api", {vm.address: False})
    assert mesh.lab.endpoints("face") == {vm.address: True}
    (vm.folder / "api-unready").unlink()
    mesh.lab.await_endpoints("api", {vm.address: True})
