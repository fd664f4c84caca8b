"""What the controller may tell this machine: the limits belong to the machine's own configuration. Pure.

What is beyond them is refused by itself, with a condition; the rest is taken. What is in force stays, so that no word of the
controller takes routes, names or rules from a member.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import replace

from harness import proxy_environment, route_clashes
from harness.config import schema
from harness.known import Machine, Refusal
from harness.messages import ClusterFacts, LinkerdFacts, PodRoute, Registration
from harness.values import IPAddress, IPNetwork

SHORTEST = {4: 8, 6: 32}
"""Prefix lengths: no network that is told may be larger. 10.0.0.0/8 is the largest private one; a site has a /32 of IPv6."""
MOST_OF_SHORTEST = 4
"""All told networks together have at most the addresses of so many of the largest ones: else all could be told in pieces."""
DEFAULT_DOMAIN = "cluster.local"
_LARGEST = {4: ipaddress.ip_network("0.0.0.0/8").num_addresses, 6: ipaddress.ip_network("::/32").num_addresses}
_NEVER = tuple(
    map(ipaddress.ip_network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/96", "fe80::/10", "ff00::/8"))
)
"""Of this machine itself, of its links, and of groups. 169.254.169.254 gives a cloud machine its credentials."""


def within(
    config: schema.Config, machine: Machine, told: Registration, before: Registration | None
) -> tuple[Registration, tuple[Refusal, ...]]:
    """`told` without what is beyond the limits, and that. `before`: what is in force, which was within them."""
    limits = _Limits(config, machine, before.facts if before else ClusterFacts(), told.facts)
    facts, refused = limits.facts(told.facts)
    return (replace(told, facts=facts) if facts != told.facts else told), refused


class _Limits:
    def __init__(self, config: schema.Config, machine: Machine, before: ClusterFacts, told: ClusterFacts) -> None:
        self._config, self._before = config, before
        network = config.network
        self._named = (*network.allow, *network.pod_cidrs, *network.service_cidrs, *network.mesh_cidrs)
        self._kept = {*before.service_cidrs, *before.mesh_cidrs, *(pod.pod_cidr for pod in before.pod_routes)}
        self._own = dict.fromkeys(machine.gateways, "a gateway of this machine")
        self._own |= dict.fromkeys(machine.resolvers, "a DNS server of this machine")
        self._own |= dict.fromkeys(machine.ssh_peers, "from where somebody is logged in by SSH")
        self._full = {version for version in SHORTEST if self._too_many(told, version)}
        self._refused: list[Refusal] = []

    def facts(self, told: ClusterFacts) -> tuple[ClusterFacts, tuple[Refusal, ...]]:
        pods = tuple(self._pods(told.pod_routes))
        services = tuple(self._networks("service_cidrs", told.service_cidrs, routed=True))
        mesh = tuple(self._networks("mesh_cidrs", told.mesh_cidrs, routed=False))
        if self._refused:  # what is in force stays: the refused ones may have been told in its place
            pods = tuple(dict.fromkeys((*pods, *(pod for pod in self._before.pod_routes if self._is_named(pod.pod_cidr)))))
            services = tuple(dict.fromkeys((*services, *filter(self._is_named, self._before.service_cidrs))))
            mesh = tuple(dict.fromkeys((*mesh, *filter(self._is_named, self._before.mesh_cidrs))))
        facts = replace(
            told,
            pod_routes=pods,
            service_cidrs=services,
            mesh_cidrs=mesh,
            cluster_domain=self._domain(told.cluster_domain),
            linkerd=self._linkerd(told.linkerd),
        )
        return facts, tuple(self._refused)

    def _refuse(self, path: str, value: object, why: str, key: str) -> None:
        self._refused.append(Refusal(path, str(value), why, key))

    def _pods(self, told: Iterable[PodRoute]) -> Iterator[PodRoute]:
        for i, pod in enumerate(told):
            wrong_node = _no_node(pod.via)
            if wrong_node and pod not in self._before.pod_routes:
                self._refuse(f"facts.pod_routes[{i}].via", pod.via, wrong_node, "network.node")
            elif why := self._objection(pod.pod_cidr, routed=True):
                self._refuse(f"facts.pod_routes[{i}].pod_cidr", pod.pod_cidr, why, "network.allow")
            else:
                yield pod

    def _networks(self, name: str, told: Iterable[IPNetwork], *, routed: bool) -> Iterator[IPNetwork]:
        for i, network in enumerate(told):
            if why := self._objection(network, routed=routed):
                self._refuse(f"facts.{name}[{i}]", network, why, "network.allow")
            else:
                yield network

    def _objection(self, network: IPNetwork, *, routed: bool) -> str:
        """Why it is refused; empty when it is not. Whatever the machine's own configuration names is allowed."""
        if self._within_named(network):
            return ""
        if self._config.network.allow:
            return "is in none of the networks that network.allow names"
        if network in self._kept:
            return ""
        if network.prefixlen < SHORTEST[network.version]:
            return f"is larger than a /{SHORTEST[network.version]}"
        if special := next((one for one in _NEVER if one.version == network.version and one.overlaps(network)), None):
            return f"overlaps {special}, which is no network of a cluster"
        if network.version in self._full:
            return f"is part of more addresses than {MOST_OF_SHORTEST} networks of /{SHORTEST[network.version]} have"
        hidden = next((address for address in self._own if address in network), None) if routed else None
        return f"has the address {hidden}, {self._own[hidden]}" if hidden else ""

    def _within_named(self, network: IPNetwork) -> bool:
        return any(route_clashes.is_within(network, one) for one in self._named)

    def _is_named(self, network: IPNetwork) -> bool:
        """Whether it may stay: an operator who writes network.allow ends what is outside."""
        return not self._config.network.allow or self._within_named(network)

    def _too_many(self, told: ClusterFacts, version: int) -> bool:
        networks = (*told.service_cidrs, *told.mesh_cidrs, *(pod.pod_cidr for pod in told.pod_routes))
        counted = (one for one in networks if one.version == version and not self._within_named(one))
        # Without this a /0 among them would have all the others refused.
        fitting = (one for one in counted if one.prefixlen >= SHORTEST[version])
        merged: Iterable[IPNetwork] = ipaddress.collapse_addresses(fitting)  # type: ignore[type-var]
        return sum(one.num_addresses for one in merged) > MOST_OF_SHORTEST * _LARGEST[version]

    def _domain(self, told: str) -> str:
        named = self._config.dns.allowed_domains
        if is_below(told, named or (DEFAULT_DOMAIN,)) or (not named and told == self._before.cluster_domain):
            return told
        allowed = ", ".join(named or (DEFAULT_DOMAIN,))
        self._refuse("facts.cluster_domain", told, f"is neither {allowed} nor below it", "dns.allowed_domains")
        kept = self._before.cluster_domain
        return kept if not named or is_below(kept, named) else named[0]

    def _linkerd(self, told: LinkerdFacts) -> LinkerdFacts:
        expected = proxy_environment.linkerd_identity(self._config)
        why = f"is not {expected}, which follows from controller.identity"
        for name in ("destination_identity", "policy_identity"):
            value = getattr(told, name)
            if value not in ("", expected):
                self._refuse(f"facts.linkerd.{name}", value, why, "controller.identity")
        return replace(told, destination_identity="", policy_identity="")


def is_below(domain: str, allowed: Iterable[str]) -> bool:
    """Whether it is one of `allowed`, or below one."""
    name = domain.lower().rstrip(".")
    return any(name == one or name.endswith(f".{one}") for one in (own.lower().rstrip(".") for own in allowed))


def _no_node(address: IPAddress) -> str:
    """Why it cannot be a node's address."""
    no_neighbour = address.is_loopback or address.is_multicast or address.is_unspecified
    return "is no address of another machine" if no_neighbour else ""
