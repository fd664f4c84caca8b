"""What a real Linkerd does with what the controller avoids: a second address, and a proxy beside itself."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests import linkerd_lab_control
from tests.controller_support import load_key, make_certificate
from tests.linkerd.conftest import Mesh
from tests.linkerd_lab_box import Box, box
from tests.linkerd_lab_cluster import NODE, join_pods
from tests.linkerd_lab_vm import NAMESPACE, Vm
from tests.waiting import wait
from tests.workload_api_support import write_pem

pytestmark = pytest.mark.root
SECOND = "fd00:77::1"
POD = "10.42.0.13"
CONTROLLER = "meshexp-controller.meshexp.serviceaccount.identity.linkerd.cluster.local"


@pytest.fixture
def two(mesh: Mesh) -> Iterator[Vm]:
    """A machine alone in its group and behind its Service."""
    mesh.lab.group("two")
    vm = mesh.lab.vm("two-1", "two")
    vm.join()
    try:
        yield vm
    finally:
        vm.leave()


def test_two_addresses_of_one_external_workload(mesh: Mesh, two: Vm) -> None:
    """So the controller writes one: behind a dual-stack Service Linkerd keeps one of the two for a machine, by chance which."""

    def families() -> dict[str, list[str]]:
        found = mesh.lab.cluster.get("endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=two")["items"]
        return {s["addressType"]: [a for e in s["endpoints"] or () for a in e["addresses"]] for s in found}

    def known() -> float:
        labels = ('backend_name="two"', f'backend_namespace="{NAMESPACE}"')
        return mesh.client.metrics("outbound_http_balancer_endpoints", *labels)

    def ask(address: str) -> str:
        """Over a stream that begins now."""
        assert mesh.client.meshexp("proxy", "restart")[0] == 0
        mesh.client.await_ready(60)
        return mesh.client.curl(f"http://{address}/")[0]

    kubectl, name = mesh.lab.cluster.kubectl, two.status()["workload"]["name"]
    both = {"spec": {"workloadIPs": [{"ip": two.address}, {"ip": SECOND}]}}
    kubectl("patch", "externalworkload", name, "-n", NAMESPACE, "--type=merge", "-p", json.dumps(both))
    service = mesh.lab.cluster.get("service", "two", "-n", NAMESPACE)["spec"]["clusterIP"]
    assert families() == {"IPv4": [two.address]}
    assert ask(service) == "200" and known() == 1
    dual = json.dumps({"spec": {"ipFamilyPolicy": "RequireDualStack"}})
    kubectl("patch", "service", "two", "-n", NAMESPACE, "--type=merge", "-p", dual)
    wait(lambda: families() == {"IPv4": [two.address], "IPv6": [SECOND]})
    code = ask(service)
    assert known() == 1, "of two addresses in the slices"
    print(f"\na call from a machine without IPv6, by the IPv4 address of the Service: {code}")


def issue(mesh: Mesh, folder: Path, name: str, uris: tuple[str, ...] = (), dns: tuple[str, ...] = ()) -> tuple[str, str]:
    """Files of a certificate and its key, under the mesh's trust anchor."""
    issuer = x509.load_pem_x509_certificate((mesh.lab.cluster.pki / "ta.crt").read_bytes())
    signer = load_key(mesh.lab.cluster.pki / "ta.key")
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = make_certificate(name, issuer.subject, key, signer, -60, 3600, ca=False, uris=uris, dns=dns)
    return str(write_pem(folder / f"{name}.crt", leaf)), str(write_pem(folder / f"{name}.key", key))


@pytest.fixture
def injected(mesh: Mesh) -> Iterator[Box]:
    """A pod with a proxy under the controller's identity; the controller is not started."""
    with contextlib.ExitStack() as stack:
        pod = stack.enter_context(box("injected", mesh.lab.cluster.folder / "injected", NODE))
        join_pods(mesh.lab.cluster, pod, POD)
        linkerd_lab_control.start_proxy(mesh.lab.cluster, pod, ("meshexp-controller", "meshexp"), POD, "8081,9995")
        pod.await_answer("http://127.0.0.1:4191/ready", "proxy")
        yield pod
        pod.stop("proxy", signal.SIGKILL)  # for its grace it waits longer than we do


def test_a_proxy_beside_the_controller_would_hide_who_calls(mesh: Mesh, injected: Box, tmp_path: Path) -> None:
    """So its pod is not injected: the proxy answers by the controller's name, and passes on HTTP without the SVID."""
    certificate, key = issue(mesh, tmp_path, "vm", uris=(mesh.client.spiffe_id,))
    flags = ("--cert", certificate, "--key", key, "--cacert", f"{mesh.lab.cluster.pki}/ta.crt")
    own_certificate, own_key = issue(mesh, tmp_path, "controller", dns=(CONTROLLER,))
    replica = (f"--listen={POD}:8081", "--replica=injected", f"--tls-cert={own_certificate}", f"--tls-key={own_key}")
    mesh.lab.start_controller(injected, *replica)
    injected.await_answer("http://127.0.0.1:9995/readyz", "controller")

    def call(address: str, name: str, *more: str) -> str:
        argv = ("curl", "-sS", "-m8", *flags, *more, "--connect-to", f"::{address}:8081")
        return mesh.lab.cluster.node.run(*argv, f"https://{name}:8081/v1/workloads/faces/nobody")[1]

    # Without a proxy the controller knows who calls, and answers.
    wait(lambda: '"not-registered"' in call(NODE, CONTROLLER), 20, lambda: mesh.lab.cluster.node.log("controller"))
    said = call(POD, CONTROLLER)
    assert '"not-registered"' not in said and '"code"' not in said, said
    assert '"not-registered"' in call(POD, "elsewhere.test", "--insecure"), "TLS for another name is passed on as it is"
    own = injected.do("curl", "-fsS", "http://127.0.0.1:4191/metrics")
    (ended, *_) = [line for line in own.splitlines() if 'direction="inbound"' in line and mesh.client.spiffe_id in line]
    injected.stop("controller")
    print(f"\n{said.strip()}\nthe proxy ended the TLS of {mesh.client.spiffe_id}: {ended[:60]}")


def test_through_a_proxy_the_controller_gets_no_certificate_of_its_own(mesh: Mesh, injected: Box) -> None:
    """Linkerd's identity service is spoken to in TLS by whoever asks; within the proxies' own TLS it does not understand that."""
    mesh.lab.start_controller(injected, f"--listen={POD}:8081", "--replica=injected")
    wait(lambda: "no certificate from Linkerd" in injected.log("controller"), 30, lambda: injected.log("controller"))
    assert injected.run("curl", "-fsS", "http://127.0.0.1:9995/readyz")[0] != 0
    injected.stop("controller")
