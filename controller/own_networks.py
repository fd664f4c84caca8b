"""Where in the cluster an address is. The controller makes no connection there on a machine's request (dial_back.py). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from harness.messages import ClusterFacts
from harness.values import IPAddress, IPNetwork

_NAT64, _LOCAL_NAT64, _COMPATIBLE = map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96"))


@dataclass(frozen=True, slots=True)
class OwnNetworks:
    """What the cluster's objects say, also where the configuration stands in their place in the facts.

    `nodes`: all addresses of all nodes, those without a pod network too. Pods in networks that no node and no configuration names
    are not known.
    """

    nodes: frozenset[IPAddress] = frozenset()
    pods: tuple[IPNetwork, ...] = ()
    services: tuple[IPNetwork, ...] = ()


def whose(facts: ClusterFacts, own: OwnNetworks, address: IPAddress) -> str:
    """What of the cluster has, or may have, the address or an IPv4 address within it; empty for one outside."""
    return next((found for one in (address, *within(address)) if (found := _whose(facts, own, one))), "")


def _whose(facts: ClusterFacts, own: OwnNetworks, address: IPAddress) -> str:
    if address in _LOCAL_NAT64:
        return "behind a NAT64 whose form only its operator knows (RFC 8215)"
    if address in own.nodes or any(address == route.via for route in facts.pod_routes):
        return "a node"
    if _in(address, own.pods) or _in(address, (route.pod_cidr for route in facts.pod_routes)):
        return "in a pod network"
    if _in(address, own.services) or _in(address, facts.service_cidrs):
        return "in a service network"
    return "a DNS server of the cluster" if str(address) in {server.host for server in facts.dns_addresses} else ""


def _in(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def within(address: IPAddress) -> tuple[IPAddress, ...]:
    """IPv4 addresses that packets to this one may reach: mapped, 6to4, Teredo, NAT64 (RFC 6052)."""
    if address.version == 4:
        return ()
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or address in _COMPATIBLE:
        found.append(ipaddress.IPv4Address(address.packed[12:]))
    return tuple(one for one in found if one is not None)
