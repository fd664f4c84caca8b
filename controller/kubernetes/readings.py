"""What the facts take of each object of the cluster. Pure.

Each value is parsed by itself: a wrong one is passed over and named, and the others count. So one Node that somebody wrote
wrongly ends no replica, and takes no other node's route away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from controller.store import Gap
from harness import yaml_text
from harness.messages import PodRoute
from harness.values import IPAddress, IPNetwork, parse_address, parse_domain, parse_network, parse_trust_domain

T = TypeVar("T")
Object = Mapping[str, Any]
_MOST_CHARACTERS = 200


class Reader:
    """Of one object. `faults`: what was passed over, each with its dotted path."""

    def __init__(self, data: object) -> None:
        self._data = data
        self.faults: list[str] = []

    def at(self, *path: str) -> Any:
        """None where there is nothing of this path."""
        value: Any = self._data
        for name in path:
            if not isinstance(value, Mapping):
                return None
            value = value.get(name)
        return value

    def text(self, *path: str) -> str:
        """Empty where there is none."""
        value = self.at(*path)
        if value is None or isinstance(value, str):
            return value or ""
        self._fault(".".join(path), "is not text")
        return ""

    def many(self, *path: str) -> list[tuple[str, Any]]:
        """The values of a list, each with its path."""
        value, place = self.at(*path), ".".join(path)
        if value is None or isinstance(value, list):
            return [(f"{place}[{number}]", one) for number, one in enumerate(value or ())]
        self._fault(place, "is not a list")
        return []

    def parsed(self, parse: Callable[[object], T], values: Iterable[tuple[str, Any]]) -> list[T]:
        found = []
        for place, value in values:
            try:
                found.append(parse(value))
            except ValueError as error:
                self._fault(place, str(error))
        return found

    def _fault(self, place: str, why: str) -> None:
        self.faults.append(f"{place}: {why}"[:_MOST_CHARACTERS])


@dataclass(frozen=True, slots=True)
class Node:
    """`addresses`: all, of any type. `inner`: those by which other nodes' packets come."""

    addresses: frozenset[IPAddress]
    inner: tuple[IPAddress, ...]
    pods: tuple[IPNetwork, ...]

    def routes(self) -> Iterable[PodRoute]:
        """Of each family its pod network, by the node's address of that family. Other networks' nodes have none."""
        for network in self.pods:
            via = next((address for address in self.inner if address.version == network.version), None)
            if via is not None:
                yield PodRoute(network, via)


def node(reader: Reader) -> Node:
    entries = reader.many("status", "addresses")
    inner = reader.parsed(_plain_address, _of_type(entries, "InternalIP"))
    # A type that promises no address has names: no fault.
    other = Reader(None).parsed(_plain_address, _of_type(entries, ""))
    cidrs = reader.many("spec", "podCIDRs") or [("spec.podCIDR", cidr) for cidr in [reader.at("spec", "podCIDR")] if cidr]
    pods = reader.parsed(parse_network, cidrs)
    return Node(frozenset((*inner, *other)), tuple(inner), tuple(pods))


def _of_type(entries: list[tuple[str, Any]], kind: str) -> list[tuple[str, Any]]:
    """The address of each entry of that type; of any, where it is empty."""
    maps = ((place, entry) for place, entry in entries if isinstance(entry, Mapping))
    return [(f"{place}.address", entry.get("address")) for place, entry in maps if not kind or entry.get("type") == kind]


def _plain_address(value: object) -> IPAddress:
    """One without a zone: that is a name of a link of the node's own."""
    if isinstance(value, str) and "%" in value:
        raise ValueError(f"{value!r} is an address with a zone")
    return parse_address(value)


def service_networks(reader: Reader) -> list[IPNetwork]:
    return reader.parsed(parse_network, reader.many("spec", "cidrs"))


def dns_servers(reader: Reader) -> list[IPAddress]:
    return reader.parsed(_plain_address, [(place, ip) for place, ip in reader.many("spec", "clusterIPs") if ip != "None"])


@dataclass(frozen=True, slots=True)
class Linkerd:
    """The names in Linkerd's configuration; empty where it has none that can be used."""

    cluster_domain: str = ""
    trust_domain: str = ""


def linkerd(reader: Reader) -> Linkerd:
    try:
        values = yaml_text.document(reader.text("data", "values"))
    except ValueError as error:
        reader.faults.append(f"data.values: {error}"[:_MOST_CHARACTERS])
        return Linkerd()
    within = Reader(values)
    domain = within.parsed(parse_domain, _named(within, "clusterDomain"))
    trust = within.parsed(parse_trust_domain, _named(within, "identityTrustDomain"))
    reader.faults.extend(f"data.values.{fault}" for fault in within.faults)
    return Linkerd(*(next(iter(found), "") for found in (domain, trust)))


def _named(reader: Reader, name: str) -> list[tuple[str, Any]]:
    value = reader.at(name)
    return [(name, value)] if value else []


def gaps(kind: str, objects: Iterable[Object], read: Callable[[Reader], object]) -> Iterable[Gap]:
    """What was passed over in objects of one kind."""
    for data in objects:
        reader = Reader(data)
        read(reader)
        if reader.faults:
            place = [str(reader.at("metadata", part) or "") for part in ("namespace", "name")]
            yield Gap(kind, "/".join(filter(None, place)), "; ".join(reader.faults[:10]))
