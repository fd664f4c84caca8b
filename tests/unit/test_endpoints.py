"""The endpoint rules of anchors 2.2 (Linkerd's controllers), and the server that holds its answers."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
import yaml

from demo import services
from demo.cluster import MANIFESTS
from demo.endpoints import HOLD_SECONDS, EndpointServer
from tests.ports import free_port

VIP = "10.43.0.10"
KEY = (ipaddress.ip_address(VIP), 80)
OWN = (ipaddress.ip_address("10.77.0.21"), 8000)


def service(**spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    base = {"clusterIP": VIP, "selector": {"service": "face"}, "ports": ports}
    return {"metadata": {"name": "face", "namespace": "faces"}, "spec": base | spec}


def workload(name: str = "face-1", ip: str = "10.77.0.21", ready: str = "True", namespace: str = "faces", **spec: Any) -> Any:
    base = {
        "meshTLS": {"identity": "spiffe://root.linkerd.cluster.local/face", "serverName": "face.cluster.local"},
        "workloadIPs": [{"ip": ip}],
        "ports": [{"name": "http", "port": 8000}],
    }
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"service": "face", "extra": "yes"}},
        "spec": base | spec,
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def table(of_services: Sequence[Any], workloads: Sequence[Any], previous: services.Table | None = None) -> services.Table:
    return services.table(services.Objects(of_services, workloads), previous or {})


def names(of_service: Any, *workloads: Any, previous: services.Table | None = None) -> list[str]:
    entry = table([of_service], workloads, previous).get(KEY, services.NOBODY)
    return [endpoint.name for endpoint in entry.endpoints]


def test_a_ready_workload_is_an_endpoint_of_its_service() -> None:
    entry = table([service()], [workload()])[KEY]
    identity = "spiffe://root.linkerd.cluster.local/face"
    assert entry.service == "face.faces.svc.cluster.local:80"
    assert entry.endpoints == (services.Endpoint(OWN[0], 8000, identity, "face.cluster.local", "face-1", "face"),)


@pytest.mark.parametrize(
    "changed",
    [
        workload(ready="False"),
        workload(ready="Unknown"),
        workload() | {"status": {}},
        workload() | {"metadata": {"name": "face-1", "namespace": "faces", "labels": {"service": "smiley"}}},
        workload() | {"metadata": {"name": "face-1", "namespace": "faces"}},
        workload(namespace="other"),
        workload(ports=[{"name": "web", "port": 8000}]),
        workload(ports=[{"name": "http", "port": 8000, "protocol": "UDP"}]),
        workload(ports=[]),
        workload(meshTLS={"identity": "spiffe://root.linkerd.cluster.local/face", "serverName": ""}),
        workload(workloadIPs=[]),
        workload(ip="fd00::21"),
    ],
)
def test_what_keeps_a_workload_out(changed: Any) -> None:
    assert names(service(), workload("face-2", "10.77.0.22"), changed) == ["face-2"]


@pytest.mark.parametrize(
    "changed",
    [
        service(clusterIP="None"),
        service(selector={}),
        service(type="ExternalName"),
        service() | {"metadata": {"name": "face", "namespace": "kube-system"}},
    ],
    ids=["headless", "no-selector", "external-name", "kube-system"],
)
def test_services_without_endpoints_of_ours(changed: Any) -> None:
    namespace = changed["metadata"]["namespace"]
    assert names(changed, workload(namespace=namespace)) == []


def test_a_target_port_may_be_a_number_and_defaults_to_the_port() -> None:
    assert names(service(ports=[{"port": 80, "targetPort": 8000}]), workload()) == ["face-1"]
    assert names(service(ports=[{"port": 80, "targetPort": 9999}]), workload()) == []
    assert names(service(ports=[{"port": 80}]), workload(ports=[{"port": 80}])) == ["face-1"]


def test_one_bad_address_blocks_its_service_until_it_goes() -> None:
    before = table([service()], [workload()])
    good, bad = workload("face-2", "10.77.0.22"), workload("face-3", "not-an-ip", ready="False")
    assert names(service(), workload(), good, bad, previous=before) == ["face-1"]
    assert names(service(), workload(), good, previous=before) == ["face-1", "face-2"]
    elsewhere = workload("face-3", "not-an-ip", namespace="other")
    assert names(service(), workload(), good, elsewhere, previous=before) == ["face-1", "face-2"]


def test_a_workload_is_meshed_by_its_own_address_unless_two_claim_it() -> None:
    alone = table([], [workload(ready="False")])[OWN]
    assert alone.service is None
    assert [endpoint.name for endpoint in alone.endpoints] == ["face-1"]
    assert OWN not in table([], [workload(), workload("face-2")])


def pod(name: str = "face-0", ready: str = "True", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "faces", "labels": {"service": "face"}},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8000}]}]},
        "status": {"podIP": "10.42.0.11", "conditions": [{"type": "Ready", "status": ready}]} | status,
    }


def test_a_ready_pod_is_an_endpoint_next_to_workloads_and_without_an_identity() -> None:
    there = services.Objects([service()], [workload()], [pod(), pod("face-9", "False"), pod("face-8", podIP=None)])
    found = services.table(there, {})[KEY].endpoints
    assert [(str(one.ip), one.port, one.identity, one.name) for one in found] == [
        ("10.42.0.11", 8000, "", "face-0"),
        ("10.77.0.21", 8000, "spiffe://root.linkerd.cluster.local/face", "face-1"),
    ]
    by_number = service(ports=[{"port": 80, "targetPort": 9000}])
    assert services.table(services.Objects([by_number], [], [pod()]), {})[KEY].endpoints[0].port == 9000


def routed(*backends: tuple[str, int], **changed: Any) -> list[tuple[str, str, int]]:
    """Endpoints of `face` under the playground's own route, with these backends: name, backend and weight."""
    route = yaml.safe_load((MANIFESTS / "route" / "smiley-route.yaml").read_text())
    route["spec"]["parentRefs"][0]["name"] = "face"
    route["spec"]["rules"][0]["backendRefs"] = [{"name": name, "port": 80, "weight": weight} for name, weight in backends]
    route["metadata"] |= changed
    other = service(clusterIP="10.43.0.11", selector={"service": "face2"})
    other["metadata"] = {"name": "face2", "namespace": "faces"}
    canary = workload("face2-1", "10.77.0.23")
    canary["metadata"]["labels"] = {"service": "face2"}
    table = services.table(services.Objects([service(), other], [workload(), canary], (), [route]), {})
    assert [one.name for one in table[ipaddress.ip_address("10.43.0.11"), 80].endpoints] == ["face2-1"], "not a parent"
    assert table[KEY].service == "face.faces.svc.cluster.local:80"
    return [(one.name, one.backend, one.weight) for one in table[KEY].endpoints]


def test_an_http_route_shares_a_services_connections_among_its_backends() -> None:
    assert routed(("face", 80), ("face2", 20)) == [("face-1", "face", 80), ("face2-1", "face2", 20)]
    assert routed(("face2", 1)) == [("face2-1", "face2", 1)]
    assert routed(("face", 1), ("face2", 0), ("nobody", 3)) == [("face-1", "face", 1)]
    assert routed(("face2", 1), namespace="other") == [("face-1", "face", 1)], "the route of another namespace"


async def get(port: int, target: str) -> tuple[int, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    status = int(head.split()[1])
    return status, json.loads(body) if status == 200 else body.decode()


def test_the_server_answers_at_once_and_then_holds_until_a_change() -> None:
    async def scenario() -> None:
        server, port = EndpointServer(), free_port()
        server.update(services.Objects([service()], [workload()]))
        await server.start("127.0.0.1", port)
        path = f"/endpoints/{VIP}/80"
        status, first = await get(port, path)
        assert status == 200
        assert first["service"] == "face.faces.svc.cluster.local:80"
        assert [(e["ip"], e["port"], e["server_name"]) for e in first["endpoints"]] == [
            ("10.77.0.21", 8000, "face.cluster.local")
        ]
        held = asyncio.create_task(get(port, f"{path}?after={first['version']}"))
        await asyncio.sleep(0.1)
        server.update(services.Objects([service()], [workload()]))  # the same content: no answer
        await asyncio.sleep(0.1)
        assert not held.done()
        server.update(services.Objects([service()], [workload(), workload("face-2", "10.77.0.22")]))
        _, second = await held
        assert len(second["endpoints"]) == 2
        assert second["version"] != first["version"]
        _, nobody = await get(port, "/endpoints/192.0.2.1/443")
        assert (nobody["service"], nobody["endpoints"]) == (None, [])
        assert (await get(port, "/endpoints/face/80"))[0] == 400
        waiting = asyncio.create_task(get(port, f"{path}?after={second['version']}"))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < HOLD_SECONDS, "it did not wait for the held answer"
        await waiting

    asyncio.run(scenario())


def test_stop_without_start() -> None:
    asyncio.run(EndpointServer().stop())
