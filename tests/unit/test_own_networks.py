"""To which addresses the controller makes no connection on a machine's request: those of the cluster itself."""

from __future__ import annotations

from typing import Any

import pytest

from controller.admission import RefusedError
from controller.dial_back import DialBack
from controller.kubernetes.cluster import Sources, own_networks
from controller.own_networks import OwnNetworks
from controller.registry import Caller
from harness.messages import ClusterFacts, PodRoute
from harness.values import HostPort, parse_address, parse_network
from tests.unit.controller_world import FACE, World, refused, run
from tests.unit.test_dial_back import Dialled, key

FACTS = ClusterFacts(
    pod_routes=(PodRoute(parse_network("10.42.0.0/24"), parse_address("10.9.0.1")),),
    service_cidrs=(parse_network("10.43.0.0/16"),),
    dns_addresses=(HostPort("10.44.0.10", 53),),
)


async def ask(w: World, address: str, facts: ClusterFacts, own: OwnNetworks | None) -> list[str]:
    """Where a connection went to for a machine at the address."""
    dialled = Dialled()
    back, made = DialBack(w.registry, dialled, (lambda: own) if own is not None else None), await w.join(f"at {address}", address)
    w.fleet.facts = facts
    await back.reach(Caller(FACE, made.secret), key(made))
    return [target[0] for target in dialled.targets]


@pytest.mark.parametrize("address", ["10.9.0.1", "10.42.0.9", "10.43.7.7", "10.44.0.10"])
def test_no_connection_goes_to_a_node_a_pod_or_a_service(address: str) -> None:
    async def body(w: World) -> None:
        with refused("address-not-allowed"):
            await ask(w, address, FACTS, None)

    run(body)


def node(addresses: dict[str, str], *networks: str) -> dict[str, Any]:
    return {
        "spec": {"podCIDRs": list(networks)},
        "status": {"addresses": [{"type": kind.split()[0], "address": value} for kind, value in addresses.items()]},
    }


OWN = own_networks(
    Sources(
        nodes=(
            node(
                {"InternalIP": "10.9.0.1", "InternalIP 2": "fd09::1", "ExternalIP": "203.0.113.5", "Hostname": "one"},
                "10.45.0.0/24",
            ),
            node({"InternalIP": "10.9.0.6", "Hostname": "10.9.0.7"}),
            {"metadata": {}},
        ),
        service_cidrs=({"spec": {"cidrs": ["10.46.0.0/16"]}},),
    )
)
INSIDE = {
    "10.9.0.1": "a node of the second family too", "fd09::1": "its other family", "203.0.113.5": "its external address",
    "10.9.0.6": "a node without a pod network", "10.9.0.7": "a host name that is an address", "10.45.0.9": "a node's pods",
    "10.46.0.1": "the cluster's own services", "10.43.0.1": "the configured ones", "64:ff9b::a09:1": "NAT64",
    "64:ff9b:1:a09:0:100::": "NAT64 in an unknown form", "2002:a09:1::1": "6to4", "64:ff9b::7f00:1": "NAT64 of 127.0.0.1",
}  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_configured_hides_nothing_of_the_cluster(address: str) -> None:
    async def body(w: World) -> None:
        with refused("address-not-allowed"):
            await ask(w, address, FACTS, OWN)

    run(body)


def test_outside_of_the_cluster_it_connects() -> None:
    async def body(w: World) -> None:
        for address in ("192.0.2.9", "2001:db8::9", "64:ff9b::c000:207"):
            assert await ask(w, address, FACTS, OWN) == [address]

    run(body)


def test_a_cluster_whose_service_networks_are_not_known_has_no_machine_tested() -> None:
    async def body(w: World) -> None:
        with pytest.raises(RefusedError, match="service networks are not known") as caught:
            await ask(w, "192.0.2.9", ClusterFacts(), OwnNetworks(nodes=OWN.nodes))
        assert "facts.serviceCIDRs" in caught.value.hint
        assert await ask(w, "192.0.2.8", FACTS, OwnNetworks()) == ["192.0.2.8"]

    run(body)
