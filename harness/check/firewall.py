"""What else programs this machine's packets: rules that keep peers out, two firewalls, containers' ports, other meshes."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import check_problems as problems
from harness.check import iptables_listing, nft_listing, packet_filter
from harness.check.context import Context
from harness.check.packet_filter import Packet
from harness.check.report import Judge, Result
from harness.errors import HarnessError
from harness.rules import Family
from harness.system import legacy_rules, xtables
from harness.system.nftables import Nftables
from harness.system.redirect_table import CHAIN, marks_of_table

Listing = list[dict[str, Any]]
_MESHES = {
    "Istio": re.compile(r"ISTIO_|istio"),
    "Linkerd (linkerd-init)": re.compile(r"PROXY_INIT_"),
    "Kuma": re.compile(r"KUMA_MESH_"),
    "Consul": re.compile(r"CONSUL_(PROXY|DNS)_"),
    "Cilium": re.compile(r"CILIUM_|OLD_CILIUM_"),
}
_PROGRAMS = {
    "pilot-agent": "Istio",
    "kuma-dp": "Kuma",
    "consul": "Consul",
    "linkerd-proxy-h": "Buoyant's linkerd-proxy-harness",  # the kernel keeps 15 characters
    "envoy": "an Envoy",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """`legacy`: iptables-save of the tables filter and nat. `programs`: names of what runs, as the kernel has them."""

    nft: Listing
    legacy: dict[str, str]
    legacy_nat_entries: int
    programs: frozenset[str]
    managers: tuple[str, ...]


async def gather(context: Context) -> Facts:
    try:
        nft: Listing = await Nftables().listing()
    except HarnessError:
        nft = []
    filter_, nat = await asyncio.gather(legacy_rules.table("filter"), legacy_rules.table("nat"))
    return Facts(nft, {"filter": filter_, "nat": nat}, _legacy_entries(), frozenset(_programs()), _managers())


def _legacy_entries() -> int:
    try:
        return sum(xtables.nat_table(family).entries for family in Family)
    except OSError:
        return 0


def _programs() -> Iterator[str]:
    for name in os.listdir("/proc"):  # noqa: PTH208 — a tenth of pathlib's cost
        if name.isdigit():
            try:
                yield Path("/proc", name, "comm").read_text().strip()
            except OSError:
                continue  # the process has gone


def _managers() -> tuple[str, ...]:
    """Those that are in charge of this machine's rules, whether they run all the time or not."""
    found = []
    if Path("/run/firewalld").exists():
        found.append("firewalld")
    try:
        if re.search(r"(?m)^ENABLED=yes", Path("/etc/ufw/ufw.conf").read_text()):
            found.append("ufw")
    except OSError:
        pass
    return tuple(found)


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to = Judge("meshexp-firewall")
    port = context.config.proxy.inbound_port
    packet = Packet(port, context.networks)
    dropped = [drop for drop in (_nft(facts, packet), _legacy(facts, packet)) if drop]
    by = f" (this machine's firewall is {', '.join(facts.managers)})" if facts.managers else ""
    yield to.found(f"peers reach port {port}", problems.FIREWALL_DROPS, (f"{drop}{by}" for drop in dropped))
    yield to.found("one firewall backend is in use", problems.FIREWALL_MIXED, mixed(facts))
    yield to.found("no container publishes a port of the group", problems.PORT_PUBLISHED, _published(context, facts))
    yield to.found("no other mesh is on this machine", problems.OTHER_MESH, other_meshes(facts))


def _nft(facts: Facts, packet: Packet) -> str | None:
    return packet_filter.dropped_by(nft_listing.chains(facts.nft, packet))


def _legacy(facts: Facts, packet: Packet) -> str | None:
    return packet_filter.dropped_by(iptables_listing.chains(facts.legacy["filter"], packet, "iptables filter"))


def mixed(facts: Facts) -> Iterable[str]:
    nat = [chain for chain in _chains(facts.nft) if chain.get("type") == "nat"]
    tables = {f"{c['family']} {c['table']}" for c in nat if marks_of_table(c["table"]) is None}
    legacy = [line for line in facts.legacy["nat"].splitlines() if line.startswith("-A ") and CHAIN not in line]
    entries = len(legacy) if facts.legacy["nat"] else facts.legacy_nat_entries
    if tables and entries:
        yield f"the legacy nat table has {entries} rules, and nftables has nat in {', '.join(sorted(tables))}"


def _published(context: Context, facts: Facts) -> Iterable[str]:
    template = context.registration.template.ports if context.registration else ()
    ports = frozenset(port.port for port in template if port.protocol == "TCP")
    found = set(nft_listing.published(facts.nft, ports)) | set(iptables_listing.published(facts.legacy["nat"], ports))
    return (f"port {port} goes to a container by a DNAT rule" for port in sorted(found))


def other_meshes(facts: Facts) -> Iterator[str]:
    names = [chain["name"] for chain in _chains(facts.nft)]
    names += [table["name"] for item in facts.nft if (table := item.get("table"))]
    names += [line[1:].split()[0] for text in facts.legacy.values() for line in text.splitlines() if line.startswith(":")]
    for mesh, pattern in _MESHES.items():
        if chains := sorted({name for name in names if pattern.match(name)}):
            yield f"rules of {mesh}: {', '.join(chains[:4])}{' …' if len(chains) > 4 else ''}"
    for program in sorted(facts.programs & _PROGRAMS.keys()):
        yield f"{program} runs ({_PROGRAMS[program]})"


def _chains(listing: Listing) -> Iterator[dict[str, Any]]:
    return (item["chain"] for item in listing if "chain" in item)
