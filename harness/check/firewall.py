"""What else programs this machine's packets: rules that keep peers out, two firewalls, containers' ports, other meshes."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import check_problems as problems
from harness import phrases, reading
from harness.check import iptables_listing, nft_listing, packet_filter
from harness.check.context import NEEDS_ROOT, Context, needs_root
from harness.check.packet_filter import Packet
from harness.check.report import NOT_LOOKED, Judge, Result, Untried, reasons_untried
from harness.errors import HarnessError
from harness.rules import Family
from harness.system import addresses, legacy_rules, xtables
from harness.system.nftables import Nftables, NotInKernelError
from harness.system.redirect_table import CHAIN, marks_of_table
from harness.values import IPNetwork

NAME = "meshexp-firewall"
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
    """`filter` and `nat`, for IPv6 `filter6` and `nat6`: legacy iptables' tables, as iptables-save has them.

    `nat_entries`: how many rules its nat tables have.

    `programs`: names of what runs, as the kernel has them. `ways`: the mesh's networks that packets can come from.
    """

    nft: Listing | Untried = NOT_LOOKED
    filter: str | Untried = NOT_LOOKED
    nat: str | Untried = NOT_LOOKED
    filter6: str | Untried = NOT_LOOKED
    nat6: str | Untried = NOT_LOOKED
    nat_entries: int | Untried = NOT_LOOKED
    programs: frozenset[str] | Untried = NOT_LOOKED
    managers: tuple[str, ...] = ()
    ways: tuple[IPNetwork, ...] = ()

    @property
    def rules(self) -> Listing:
        """What is known of nftables."""
        return [] if isinstance(self.nft, Untried) else self.nft

    @property
    def nats(self) -> tuple[str | Untried, str | Untried]:
        return self.nat, self.nat6

    @property
    def legacy(self) -> tuple[str | Untried, ...]:
        return self.filter, self.filter6, *self.nats


_ONLY_FOR_ROOT = Facts(
    nft=NEEDS_ROOT, filter=NEEDS_ROOT, nat=NEEDS_ROOT, filter6=NEEDS_ROOT, nat6=NEEDS_ROOT, nat_entries=NEEDS_ROOT
)


async def gather(context: Context) -> Facts:
    programs: frozenset[str] | Untried
    try:
        programs = frozenset(_programs())
    except PermissionError as error:  # others' processes are hidden from this user
        programs = needs_root(str(error))
    managers = _managers()
    if not context.root:
        return replace(_ONLY_FOR_ROOT, programs=programs, managers=managers)
    nft, filter_, nat, filter6, nat6 = await asyncio.gather(
        _nftables(),
        _table("filter", Family.IPV4),
        _table("nat", Family.IPV4),
        _table("filter", Family.IPV6),
        _table("nat", Family.IPV6),
    )
    ways = tuple(network for network in context.networks if _way(network))
    return Facts(nft, filter_, nat, filter6, nat6, _legacy_entries(), programs, managers, ways)


def _way(network: IPNetwork) -> bool:
    """Whether the kernel knows a way to the network: without one, nothing that comes from there is answered."""
    return addresses.source_of(network[min(1, network.num_addresses - 1)]) is not None


async def _nftables() -> Listing | Untried:
    try:
        return await Nftables().listing()
    except NotInKernelError:
        return []
    except HarnessError as error:
        return Untried(f"the rules of nftables cannot be listed: {error.message}")


async def _table(name: str, family: Family) -> str | Untried:
    try:
        return await legacy_rules.table(name, family)
    except HarnessError as error:
        return Untried(f"the rules of legacy iptables cannot be listed: {error.message}")


def _legacy_entries() -> int | Untried:
    try:
        return sum(xtables.nat_table(family).entries for family in Family)
    except OSError as error:
        return Untried(f"the nat table of legacy iptables cannot be read: {error.strerror}")


def _programs() -> Iterator[str]:
    for name in os.listdir("/proc"):  # noqa: PTH208 — a tenth of pathlib's cost
        if name.isdigit():
            try:
                yield Path("/proc", name, "comm").read_text().strip()
            except (FileNotFoundError, ProcessLookupError):
                continue  # the process has gone


def _managers() -> tuple[str, ...]:
    """Those that are in charge of this machine's rules, whether they run all the time or not. Only named in a reason."""
    found = []
    if Path("/run/firewalld").exists():
        found.append("firewalld")
    try:
        if re.search(r"(?m)^ENABLED=yes", reading.text(Path("/etc/ufw/ufw.conf"))):
            found.append("ufw")
    except FileNotFoundError:
        pass
    return tuple(found)


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to = Judge(NAME)
    yield _judge_peers(to, context, facts)
    # Two sources tell how many rules the legacy nat tables have; one that is known is enough.
    listed = not reasons_untried(*facts.nats) and "" not in facts.nats
    why = reasons_untried(facts.nft) if listed else reasons_untried(facts.nft, facts.nat_entries)
    yield to.found("one firewall backend is in use", problems.FIREWALL_MIXED, mixed(facts), tried=not why, why=why)
    yield _judge_published(to, context, facts)
    why = reasons_untried(facts.nft, *facts.legacy, facts.programs)
    yield to.found("no other mesh is on this machine", problems.OTHER_MESH, other_meshes(facts), tried=not why, why=why)


def _judge_peers(to: Judge, context: Context, facts: Facts) -> Result:
    """Skipped without a way to the peers: no packet of theirs can arrive, so nothing shows that these rules let one in."""
    port = context.config.proxy.inbound_port
    versions = sorted({network.version for network in context.networks}) or [4]
    dropped = [drop for version in versions for drop in _dropped(facts, port, context.networks, version)]
    filters = [facts.filter6 if version == 6 else facts.filter for version in versions]
    by = f" (this machine's firewall is {', '.join(facts.managers)})" if facts.managers else ""
    why = reasons_untried(facts.nft, *filters)
    if not why and not context.networks:
        why = "no rule drops it for everybody, but nobody has told yet which networks peers are in"
    if not why and not facts.ways:
        why = f"this machine has no way to {', '.join(map(str, context.networks[:4]))}{' …' if len(context.networks) > 4 else ''}"
    reasons = [f"{drop}{by}" for drop in dropped]
    return to.found(f"peers reach port {port}", problems.FIREWALL_DROPS, reasons, tried=not why, why=why)


def _dropped(facts: Facts, port: int, networks: tuple[IPNetwork, ...], version: int) -> Iterator[str]:
    """What drops a peer's packet of that version of IP."""
    packet = Packet(port, tuple(network for network in networks if network.version == version), version)
    label = "ip6tables filter" if version == 6 else "iptables filter"
    legacy = _text(facts.filter6 if version == 6 else facts.filter)
    for chains in (nft_listing.chains(facts.rules, packet), iptables_listing.chains(legacy, packet, label)):
        if drop := packet_filter.dropped_by(chains):
            yield drop


def _text(table: str | Untried) -> str:
    """What is known of it."""
    return "" if isinstance(table, Untried) else table


def mixed(facts: Facts) -> Iterable[str]:
    nat = [chain for chain in _chains(facts.rules) if chain.get("type") == "nat"]
    tables = {f"{c['family']} {c['table']}" for c in nat if marks_of_table(c["table"]) is None}
    texts = [text for text in map(_text, facts.nats) if text]
    legacy = [line for text in texts for line in text.splitlines() if line.startswith("-A ") and CHAIN not in line]
    counted = 0 if isinstance(facts.nat_entries, Untried) else facts.nat_entries
    entries = len(legacy) if texts else counted
    if tables and entries:
        rules = phrases.counted(entries, "rule")
        yield f"legacy iptables has {rules} in its nat tables, and nftables has nat in {', '.join(sorted(tables))}"


def _judge_published(to: Judge, context: Context, facts: Facts) -> Result:
    template = context.registration.template.ports if context.registration else ()
    ports = frozenset(port.port for port in template if port.protocol == "TCP")
    found = set(nft_listing.published(facts.rules, ports))
    found |= {port for table in facts.nats for port in iptables_listing.published(_text(table), ports)}
    reasons = [f"port {port} goes to a container by a DNAT rule" for port in sorted(found)]
    why = reasons_untried(facts.nft, *facts.nats)
    if not ports:
        why = "the group has no TCP port"
    if context.registration is None:
        why = "the controller tells the group's ports at the registration"
    text = "no container publishes a port of the group"
    return to.found(text, problems.PORT_PUBLISHED, reasons, tried=not why, why=why)


def other_meshes(facts: Facts) -> Iterator[str]:
    names = [chain["name"] for chain in _chains(facts.rules)]
    names += [table["name"] for item in facts.rules if (table := item.get("table"))]
    names += [line[1:].split()[0] for text in map(_text, facts.legacy) for line in text.splitlines() if line.startswith(":")]
    for mesh, pattern in _MESHES.items():
        if chains := sorted({name for name in names if pattern.match(name)}):
            yield f"rules of {mesh}: {', '.join(chains[:4])}{' …' if len(chains) > 4 else ''}"
    programs = frozenset() if isinstance(facts.programs, Untried) else facts.programs
    for program in sorted(programs & _PROGRAMS.keys()):
        yield f"{program} runs ({_PROGRAMS[program]})"


def _chains(listing: Listing) -> Iterator[dict[str, Any]]:
    return (item["chain"] for item in listing if "chain" in item)
