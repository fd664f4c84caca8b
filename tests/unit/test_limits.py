"""What the controller may tell: the limits of the machine's own configuration, value by value."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from harness import limits
from harness.known import Refusal
from harness.messages import ClusterFacts, LinkerdFacts, PodRoute
from harness.values import HostPort
from tests import builders

NODE = ipaddress.ip_address("10.9.0.1")


def networks(*texts: str) -> tuple[Any, ...]:
    return tuple(map(ipaddress.ip_network, texts))


def judged(
    told: ClusterFacts, before: ClusterFacts | None = None, network: Any = None, dns: Any = None, **machine: Any
) -> tuple[ClusterFacts, tuple[Refusal, ...]]:
    config = builders.config(network=network or {"node": "10.9.0.1"}, dns=dns or {})
    in_force = builders.registration(facts=before) if before is not None else None
    taken, refused = limits.within(config, builders.machine(**machine), builders.registration(facts=told), in_force)
    return taken.facts, refused


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("0.0.0.0/0", "larger than a /8"),
        ("0.0.0.0/1", "larger than a /8"),
        ("128.0.0.0/1", "larger than a /8"),
        ("10.0.0.0/7", "larger than a /8"),
        ("::/0", "larger than a /32"),
        ("2000::/3", "larger than a /32"),
        ("127.0.0.0/8", "no network of a cluster"),
        ("127.0.0.53/32", "no network of a cluster"),
        ("169.254.169.254/32", "no network of a cluster"),
        ("224.0.0.0/8", "no network of a cluster"),
        ("fe80::/64", "no network of a cluster"),
        ("::1/128", "no network of a cluster"),
        ("203.0.113.0/24", "the address 203.0.113.1, a gateway"),
        ("198.51.100.53/32", "the address 198.51.100.53, a DNS server"),
        ("192.0.0.0/8", "the address 192.0.2.7, from where somebody is logged in by SSH"),
    ],
)
@pytest.mark.parametrize("place", ["service_cidrs", "mesh_cidrs", "pod_routes"])
def test_a_network_beyond_the_limits_is_refused_and_the_others_go_on(place: str, network: str, why: str) -> None:
    good, bad = networks("10.43.0.0/16", network)
    value: Any = tuple(PodRoute(one, NODE) for one in (good, bad)) if place == "pod_routes" else (good, bad)
    told: dict[str, Any] = {place: value}
    own: dict[str, Any] = {
        "gateways": (ipaddress.ip_address("203.0.113.1"),),
        "resolvers": (ipaddress.ip_address("198.51.100.53"),),
        "ssh_peers": (ipaddress.ip_address("192.0.2.7"),),
    }
    facts, refused = judged(ClusterFacts(**told), **own)
    if place == "mesh_cidrs" and "address" in why:
        assert not refused, "no route goes there: other machines of the mesh are on this machine's own network"
        return
    assert getattr(facts, place) == value[:1]
    assert [why in str(one) for one in refused] == [True]
    assert refused[0].path.startswith(f"facts.{place}[1]")
    assert refused[0].key == "network.allow"


def test_all_addresses_cannot_be_told_in_pieces() -> None:
    pieces = tuple(ipaddress.ip_network((first << 24, 8)) for first in range(1, 100) if first != 127)
    facts, refused = judged(ClusterFacts(service_cidrs=pieces))
    assert facts.service_cidrs == ()
    assert len(refused) == len(pieces)
    assert "more addresses than 4 networks of /8" in str(refused[0])
    usual = networks("10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10", "192.168.0.0/16")
    assert judged(ClusterFacts(service_cidrs=usual)) == (ClusterFacts(service_cidrs=usual), ())


def test_what_the_owner_names_is_allowed_and_narrows() -> None:
    told = ClusterFacts(service_cidrs=networks("8.0.0.0/6", "10.43.0.0/16", "172.20.0.0/16"))
    facts, refused = judged(told, network={"node": "10.9.0.1", "allow": ["8.0.0.0/6"]})
    assert facts.service_cidrs == networks("8.0.0.0/6", "10.43.0.0/16")
    assert [str(one) for one in refused] == [
        "facts.service_cidrs[2]: 172.20.0.0/16 is in none of the networks that network.allow names"
    ]
    configured = {"node": "10.9.0.1", "service_cidrs": ["0.0.0.0/1"]}
    assert judged(ClusterFacts(service_cidrs=networks("0.0.0.0/1")), network=configured)[1] == ()


def test_what_is_in_force_stays_when_others_are_told_in_its_place() -> None:
    before = ClusterFacts(
        service_cidrs=networks("10.43.0.0/16"),
        mesh_cidrs=networks("10.8.0.0/16"),
        pod_routes=(PodRoute(networks("10.42.0.0/24")[0], NODE),),
    )
    facts, refused = judged(ClusterFacts(service_cidrs=networks("0.0.0.0/1", "128.0.0.0/1")), before)
    assert len(refused) == 2
    assert facts == before
    # A gateway that came later, or a limit of a newer release, takes no route from a member.
    own: dict[str, Any] = {"gateways": (ipaddress.ip_address("10.43.0.1"),)}
    assert judged(before, before, **own) == (before, ())
    # The operator's own word does.
    facts, refused = judged(before, before, network={"node": "10.9.0.1", "allow": ["10.42.0.0/16", "10.8.0.0/16"]})
    assert facts.service_cidrs == ()
    assert [one.value for one in refused] == ["10.43.0.0/16"]


@pytest.mark.parametrize("via", ["127.0.0.1", "224.0.0.1", "0.0.0.0", "::1"])
def test_a_node_is_another_machine(via: str) -> None:
    route = PodRoute(networks("10.42.0.0/24")[0], ipaddress.ip_address(via))
    facts, refused = judged(ClusterFacts(pod_routes=(route,)))
    assert facts.pod_routes == ()
    assert [one.path for one in refused] == ["facts.pod_routes[0].via"]


@pytest.mark.parametrize(
    ("domain", "allowed", "taken"),
    [
        ("cluster.local", (), True),
        ("a.cluster.local", (), True),
        ("CLUSTER.local.", (), True),
        ("com", (), False),
        ("local", (), False),
        ("notcluster.local", (), False),
        ("example.com", (), False),
        ("example.com", ("example.com",), True),
        ("k8s.example.com", ("example.com",), True),
        ("com", ("example.com",), False),
        ("cluster.local", ("example.com",), False),
        ("internal", ("internal",), True),
    ],
)
def test_the_clusters_domain_is_the_owners_or_below(domain: str, allowed: tuple[str, ...], taken: bool) -> None:
    facts, refused = judged(ClusterFacts(cluster_domain=domain), dns={"allowed_domains": list(allowed)})
    assert (facts.cluster_domain == domain) is taken
    assert [one.key for one in refused] == ([] if taken else ["dns.allowed_domains"])


def test_a_domain_in_force_stays() -> None:
    before = ClusterFacts(cluster_domain="k8s.example.com")
    assert judged(before, before) == (before, ()), "of a member that joined before there were limits"
    facts, refused = judged(ClusterFacts(cluster_domain="com"), before)
    assert facts.cluster_domain == "k8s.example.com"
    assert len(refused) == 1
    facts, _ = judged(before, before, dns={"allowed_domains": ["corp.test"]})
    assert facts.cluster_domain == "corp.test", "the operator's own word"


def test_linkerd_is_called_by_the_machines_own_configuration() -> None:
    at = HostPort("10.43.0.9", 8086)
    told = LinkerdFacts(at, "attacker.ns.serviceaccount.identity.linkerd.cluster.local", at, "")
    facts, refused = judged(ClusterFacts(linkerd=told))
    assert facts.linkerd == LinkerdFacts(at, "", at, "")
    assert [(one.path, one.key) for one in refused] == [("facts.linkerd.destination_identity", "controller.identity")]
    own = "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local"
    assert judged(ClusterFacts(linkerd=LinkerdFacts(at, own, at, own)))[1] == ()
