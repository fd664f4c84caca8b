"""What machines are told of a real cluster, and that it follows the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import yaml

from controller.kubernetes.cluster import Cluster, Sources, facts
from harness.clock import SystemClock
from harness.errors import UnavailableError
from harness.messages import ClusterFacts, LinkerdFacts, PodRoute
from harness.values import HostPort, parse_address, parse_network
from tests.kubernetes_support import cluster


def node(name: str, cidrs: list[str], addresses: list[str]) -> dict[str, Any]:
    entries = [{"type": "InternalIP", "address": address} for address in addresses]
    entries.append({"type": "Hostname", "address": name})
    return {"metadata": {"name": name}, "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}, "status": {"addresses": entries}}


def add_node(name: str, cidrs: list[str], addresses: list[str]) -> None:
    whole = {"apiVersion": "v1", "kind": "Node", **node(name, cidrs, addresses)}
    cluster().kubectl("apply", "-f", "-", given=yaml.safe_dump(whole))
    cluster().kubectl(
        "patch", "node", name, "--subresource=status", "--type=merge", "-p", yaml.safe_dump({"status": whole["status"]})
    )


def config_map(name: str, **data: str) -> None:
    whole = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "linkerd"}, "data": data}
    cluster().kubectl("apply", "-f", "-", given=yaml.safe_dump(whole))


@contextlib.contextmanager
def objects(*words: str) -> Any:
    """What a test has made is deleted."""
    try:
        yield
    finally:
        for kind_name in words:
            kind, name, *namespace = kind_name.split("/")
            cluster().kubectl("delete", kind, name, *(f"--namespace={n}" for n in namespace), check=False)


@contextlib.asynccontextmanager
async def followed() -> AsyncIterator[tuple[Cluster, Callable[..., Awaitable[float]]]]:
    async with cluster().client() as client:
        made = Cluster(client, SystemClock(), ClusterFacts(), "linkerd")
        news = asyncio.Event()
        made.changed = lambda facts: news.set()
        task = asyncio.create_task(made.run())

        async def until(holds: Callable[[ClusterFacts], bool]) -> float:
            began = time.monotonic()
            async with asyncio.timeout(60):
                while not holds(made.facts):
                    news.clear()
                    await news.wait()
            return time.monotonic() - began

        try:
            await asyncio.wait_for(made.known.wait(), 60)
            yield made, until
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def test_nodes_come_and_go() -> None:
    async def main() -> None:
        async with followed() as (made, until):
            assert made.facts.pod_routes == ()
            assert made.facts.service_cidrs == (parse_network("10.96.0.0/16"),)  # the server's own ServiceCIDR
            await asyncio.to_thread(add_node, "one", ["10.42.0.0/24", "fd42::/64"], ["10.9.0.1", "fd09::1"])
            await asyncio.to_thread(add_node, "two", ["10.42.1.0/24"], ["10.9.0.2"])
            routes = {
                PodRoute(parse_network("10.42.0.0/24"), parse_address("10.9.0.1")),
                PodRoute(parse_network("fd42::/64"), parse_address("fd09::1")),
                PodRoute(parse_network("10.42.1.0/24"), parse_address("10.9.0.2")),
            }
            seconds = await until(lambda f: set(f.pod_routes) == routes)
            await asyncio.to_thread(cluster().kubectl, "delete", "node", "one")
            seconds = await until(lambda f: len(f.pod_routes) == 1)
            print(f"\na node gone: {seconds:.2f} s")

    with objects("node/one", "node/two"):
        asyncio.run(main())


def test_linkerd_and_dns_are_read_from_their_own_objects() -> None:
    values = {"clusterDomain": "example.test", "identityTrustDomain": "mesh.test", "clusterNetworks": "10.0.0.0/8"}
    dns = {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
    }  # fmt: skip

    async def main() -> None:
        async with followed() as (made, until):
            f = made.facts
            assert f.cluster_domain == "example.test" and f.trust_anchors_pem == "PEM 1"
            assert f.dns_addresses == (HostPort("10.96.0.10", 53),)
            assert f.linkerd.destination_address == HostPort("linkerd-dst-headless.linkerd.svc.example.test.", 8086)
            assert f.linkerd.policy_address == HostPort("linkerd-policy.linkerd.svc.example.test.", 8090)
            identity = "linkerd-destination.linkerd.serviceaccount.identity.linkerd.mesh.test"
            assert f.linkerd.destination_identity == identity == f.linkerd.policy_identity
            await asyncio.to_thread(config_map, "linkerd-identity-trust-roots", **{"ca-bundle.crt": "PEM 2"})
            await until(lambda f: f.trust_anchors_pem == "PEM 2")
            await asyncio.to_thread(config_map, "linkerd-config", values=yaml.safe_dump(values | {"clusterDomain": "other.test"}))
            await asyncio.sleep(1)
            assert made.facts.cluster_domain == "example.test"  # names are made of it

    names = ("configmap/linkerd-config/linkerd", "configmap/linkerd-identity-trust-roots/linkerd", "service/kube-dns/kube-system")
    with objects(*names):
        cluster().kubectl("apply", "-f", "-", given=yaml.safe_dump(dns))
        config_map("linkerd-config", values=yaml.safe_dump(values))
        config_map("linkerd-identity-trust-roots", **{"ca-bundle.crt": "PEM 1"})
        asyncio.run(main())


def test_what_is_configured_goes_first_and_stands_in() -> None:
    configured = ClusterFacts(
        service_cidrs=(parse_network("10.43.0.0/16"),), cluster_domain="c.test", dns_addresses=(HostPort("10.9.9.9", 5353),)
    )
    empty = facts(Sources(), configured, "l5d")
    assert empty.service_cidrs == configured.service_cidrs and empty.dns_addresses == configured.dns_addresses
    assert empty.linkerd.destination_identity == "linkerd-destination.l5d.serviceaccount.identity.l5d.c.test"
    own = LinkerdFacts(HostPort("d", 1), "d", HostPort("p", 2), "p")
    assert facts(Sources(), ClusterFacts(linkerd=own), "l5d").linkerd == own
    sources = Sources(
        nodes=(node("a", ["10.1.0.0/24"], []), {"metadata": {}, "spec": {}}), config=({"data": {"values": "a: ["}},)
    )
    assert facts(sources, configured, "l5d").pod_routes == () and facts(sources, configured, "l5d").cluster_domain == "c.test"


def test_it_refuses_to_run_beside_the_other_products_controller() -> None:
    rival = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "linkerd-autoregistration", "namespace": "linkerd"},
        "spec": {"ports": [{"port": 8081}]},
    }  # fmt: skip

    async def main() -> None:
        async with cluster().client() as client:
            await Cluster(client, SystemClock(), ClusterFacts(), "linkerd").run()

    with objects("service/linkerd-autoregistration/linkerd"):
        cluster().kubectl("apply", "-f", "-", given=yaml.safe_dump(rival))
        with pytest.raises(UnavailableError, match="another controller"):
            asyncio.run(main())
