"""What else programs this machine's packets: rules that keep peers out, two firewalls, containers' ports, other meshes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from harness import check_problems as problems
from harness import phrases
from harness.check import iptables_listing, nft_listing, packet_filter
from harness.check.context import Context
from harness.check.firewall_facts import Facts, Listing, from_peers, gather
from harness.check.packet_filter import Decision, Packet
from harness.check.report import Judge, Result, Untried, reasons_untried
from harness.system.redirect_table import CHAIN, marks_of_table

__all__ = ["NAME", "Facts", "gather", "judge"]
NAME = "meshexp-firewall"
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
    packets = facts.packets or from_peers(context) or (Packet(port, (), 4),)
    versions = sorted({packet.version or 4 for packet in packets})
    decisions = {packet: _decided(facts, packet) for packet in packets}
    filters = [facts.filter6 if version == 6 else facts.filter for version in versions]
    by = f" (this machine's firewall is {', '.join(facts.managers)})" if facts.managers else ""
    why = reasons_untried(facts.nft, *filters)
    if not why and not context.peers:
        why = "no rule drops it for everybody, but nobody has told yet which networks peers are in"
    if not why and not facts.packets:
        why = f"this machine has no way to {', '.join(map(str, context.peers[:4]))}{' …' if len(context.peers) > 4 else ''}"
    if not why:
        unread = reasons_untried(*(facts.nft6 if version == 6 else facts.nft4 for version in versions))
        unknown = dict.fromkeys(decision.unknown for decision in decisions.values() if decision.unknown)
        why = "; ".join(filter(None, (*unknown, unread if unknown else "")))
    reasons = [f"{drop}{by}" for drop in _drops(decisions)]
    return to.found(f"peers reach port {port}", problems.FIREWALL_DROPS, reasons, tried=not why, why=why)


def _decided(facts: Facts, packet: Packet) -> Decision:
    """By nftables, iptables-nft and legacy iptables, which all see the packet."""
    family, program = ("ip6", "ip6tables") if packet.version == 6 else ("ip", "iptables")
    told = facts.nft6 if packet.version == 6 else facts.nft4
    tables = {} if isinstance(told, Untried) else told
    chains = nft_listing.chains(facts.rules, packet, frozenset(f"{family} {table}" for table in tables))
    for table, text in tables.items():
        chains |= iptables_listing.chains(text, packet, f"{program}-nft", table)
    legacy = _text(facts.filter6 if packet.version == 6 else facts.filter)
    for table, text in iptables_listing.tables(legacy).items():
        chains |= iptables_listing.chains(text, packet, program, table)
    return packet_filter.decided(chains)


def _drops(decisions: dict[Packet, Decision]) -> Iterator[str]:
    """Each reason, and of whom, where the same version of IP passes for others."""
    for text in dict.fromkeys(decision.dropped for decision in decisions.values() if decision.dropped):
        those = [packet for packet, decision in decisions.items() if decision.dropped == text]
        versions = {packet.version for packet in those}
        some = any(packet.version in versions and not decision.dropped for packet, decision in decisions.items())
        sources = [str(source) for packet in those for source in packet.sources]
        more = " …" if len(sources) > 4 else ""
        yield f"{text}; what comes from {', '.join(sources[:4])}{more}" if some else text


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
    by_nft, unknown = nft_listing.published(facts.rules, ports)
    found = set(by_nft)
    nats = [_text(table) for table in facts.nats]
    nats += [told.get("nat", "") for told in (facts.nft4, facts.nft6) if not isinstance(told, Untried)]
    found |= {port for text in nats for port in iptables_listing.published(text, ports)}
    reasons = [f"port {port} goes to a container by a DNAT rule" for port in sorted(found)]
    why = reasons_untried(facts.nft, *facts.nats, facts.nft4, facts.nft6) or unknown
    if not ports:
        why = "the group has no TCP port"
    if context.registration is None:
        why = context.registration_unread or "the controller tells the group's ports at the registration"
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
