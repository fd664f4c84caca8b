"""What `meshexp run` alone made of three machines: seen in the objects of a real Linkerd and in the metrics of its proxies."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.linkerd.conftest import SMILEY, Mesh
from tests.linkerd_lab_cluster import PROXY_UID
from tests.linkerd_lab_vm import APP_PORT, NAMESPACE
from tests.waiting import wait

pytestmark = pytest.mark.root
CALLS = 60


def ready_condition(workload: dict[str, Any]) -> str:
    (found,) = [c["status"] for c in workload["status"]["conditions"] if c["type"] == "Ready"]
    return str(found)


def test_status_objects_and_endpoints_agree(mesh: Mesh) -> None:
    workloads = mesh.lab.workloads()
    for vm in (mesh.one, mesh.other, mesh.client):
        code, output = vm.meshexp("status", "-o", "json")
        status = json.loads(output)
        assert (code, status["phase"], status["ready"]) == (0, "Ready", True)
        workload = workloads[vm.address]
        assert workload["metadata"]["name"] == status["workload"]["name"]
        assert workload["spec"]["meshTLS"]["identity"] == vm.spiffe_id
        assert ready_condition(workload) == "True"
    assert mesh.lab.endpoints("smiley") == mesh.both
    assert mesh.lab.endpoints("face") == {mesh.client.address: True}


def test_a_call_by_the_services_name_is_mutual_tls_and_goes_to_both(mesh: Mesh) -> None:
    outbound = ('direction="outbound"', 'tls="true"', f'server_id="{mesh.one.spiffe_id}"', 'dst_service="smiley"')
    inbound = ('direction="inbound"', 'tls="true"', f'client_id="{mesh.client.spiffe_id}"', f'target_addr="{{}}:{APP_PORT}"')
    plain = ('direction="outbound"', 'tls="no_identity"')

    def received() -> list[float]:
        return [vm.metrics("request_total", *(label.format(vm.address) for label in inbound)) for vm in (mesh.one, mesh.other)]

    sent, before, in_plain = (
        mesh.client.metrics("request_total", *outbound),
        received(),
        mesh.client.metrics("request_total", *plain),
    )
    answers = [mesh.client.curl(f"http://{SMILEY}/") for _ in range(CALLS)]
    assert {code for code, _ in answers} == {"200"}
    assert {body for _, body in answers} == {"smiley-1", "smiley-2"}
    assert mesh.client.metrics("request_total", *outbound) == sent + CALLS
    assert mesh.client.metrics("request_total", *plain) == in_plain
    after = received()
    assert sum(after) == sum(before) + CALLS
    assert all(now > then for now, then in zip(after, before, strict=True))


def test_a_call_to_a_machines_own_address_is_mutual_tls_too(mesh: Mesh) -> None:
    """Without DESTINATION_PROFILE_NETWORKS it would go out in plain text, and still be answered."""
    labels = ('direction="inbound"', f'client_id="{mesh.client.spiffe_id}"', 'tls="true"')
    before = mesh.one.metrics("request_total", *labels)
    assert mesh.client.curl(f"http://{mesh.one.address}:{APP_PORT}/") == ("200", "smiley-1")
    assert mesh.one.metrics("request_total", *labels) == before + 1


def test_a_cluster_ip_leads_nowhere_but_through_the_proxy(mesh: Mesh) -> None:
    address = mesh.lab.cluster.get("service", "smiley", "-n", NAMESPACE)["spec"]["clusterIP"]
    assert mesh.client.curl(f"http://{address}/")[0] == "200"
    # Its source port is none that the application's calls may get: for two minutes conntrack holds it to go unredirected.
    argv = ("curl", "-sS", "-m2", "--local-port", "20000-20999", f"http://{address}/")
    assert mesh.client.box.run(*argv, uid=PROXY_UID)[0] != 0, "the proxy's user is not redirected"


def test_a_failing_probe_takes_the_endpoint_out_and_traffic_goes_to_the_other(mesh: Mesh) -> None:
    mesh.one.probe_fails(True)
    try:
        mesh.lab.await_endpoints("smiley", {mesh.one.address: False, mesh.other.address: True})
        assert ready_condition(mesh.lab.workloads()[mesh.one.address]) == "False"
        wait(lambda: {mesh.client.curl(f"http://{SMILEY}/") for _ in range(5)} == {("200", "smiley-2")})
        assert {mesh.client.curl(f"http://{SMILEY}/") for _ in range(20)} == {("200", "smiley-2")}
    finally:
        mesh.one.probe_fails(False)
    mesh.lab.await_endpoints("smiley", mesh.both)


SERVER = {
    "apiVersion": "policy.linkerd.io/v1beta3",
    "kind": "Server",
    "metadata": {"name": "smiley", "namespace": NAMESPACE},
    "spec": {
        "externalWorkloadSelector": {"matchLabels": {"service": "smiley"}}, "port": APP_PORT, "proxyProtocol": "HTTP/1",
        "accessPolicy": "deny",
    },
}  # fmt: skip


def authorization(identity: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Whoever has this identity may call that Server."""
    api = "policy.linkerd.io"
    return (
        {
            "apiVersion": f"{api}/v1alpha1", "kind": "MeshTLSAuthentication",
            "metadata": {"name": "callers", "namespace": NAMESPACE}, "spec": {"identities": [identity]},
        },
        {
            "apiVersion": f"{api}/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "smiley", "namespace": NAMESPACE},
            "spec": {
                "targetRef": {"group": api, "kind": "Server", "name": "smiley"},
                "requiredAuthenticationRefs": [{"group": api, "kind": "MeshTLSAuthentication", "name": "callers"}],
            },
        },
    )  # fmt: skip


@pytest.fixture
def apply(mesh: Mesh) -> Iterator[Callable[..., None]]:
    kinds = "servers,authorizationpolicies,meshtlsauthentications"
    with contextlib.ExitStack() as stack:
        stack.callback(mesh.lab.cluster.kubectl, "delete", kinds, "--all", "-n", NAMESPACE)
        yield mesh.lab.cluster.apply


def test_policy_is_that_of_the_callers_spiffe_id(mesh: Mesh, apply: Callable[..., None]) -> None:
    def await_code(wanted: str) -> None:
        wait(lambda: {mesh.client.curl(f"http://{SMILEY}/")[0] for _ in range(4)} == {wanted})

    apply(SERVER)
    await_code("403")
    apply(*authorization("spiffe://root.linkerd.cluster.local/somebody-else"))
    await_code("403")
    apply(*authorization(mesh.client.spiffe_id))
    await_code("200")
