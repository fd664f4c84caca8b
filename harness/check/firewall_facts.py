"""What firewall.py looks at: the rules of every backend of this machine, and the packets that peers send."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import reading
from harness.check import iptables_listing, nft_listing
from harness.check.context import NEEDS_ROOT, Context, needs_root
from harness.check.packet_filter import Packet
from harness.check.report import NOT_LOOKED, Untried
from harness.errors import HarnessError
from harness.rules import Family
from harness.system import iptables_save, xtables
from harness.system.netlink import Netlink
from harness.system.nftables import Nftables, NotInKernelError
from harness.values import IPNetwork

MOST_NETWORKS = 16
"""Of peers, that are looked at one by one; the rest of them together."""
Listing = list[dict[str, Any]]
Tables = dict[str, str]
_NFT_NAMES = {"table": ("family", "name"), "chain": ("family", "table", "name"), "rule": ("family", "table", "chain")}


@dataclass(frozen=True, slots=True)
class Facts:
    """`filter` and `nat`, for IPv6 `filter6` and `nat6`: legacy iptables' tables, as iptables-save has them.

    `nat_entries`: how many rules its nat tables have. `nft4` and `nft6`: iptables-nft's tables in the same words, by name. They
    are in `nft` too, which says less of them.

    `programs`: names of what runs, as the kernel has them. `packets`: of the peers to which this machine has a way.
    """

    nft: Listing | Untried = NOT_LOOKED
    filter: str | Untried = NOT_LOOKED
    nat: str | Untried = NOT_LOOKED
    filter6: str | Untried = NOT_LOOKED
    nat6: str | Untried = NOT_LOOKED
    nft4: Tables | Untried = NOT_LOOKED
    nft6: Tables | Untried = NOT_LOOKED
    nat_entries: int | Untried = NOT_LOOKED
    programs: frozenset[str] | Untried = NOT_LOOKED
    managers: tuple[str, ...] = ()
    packets: tuple[Packet, ...] = ()

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
        _dropping(Family.IPV4),
        _table("nat", Family.IPV4),
        _dropping(Family.IPV6),
        _table("nat", Family.IPV6),
    )
    nft4, nft6 = await asyncio.gather(_tables_in_nft(nft, Family.IPV4), _tables_in_nft(nft, Family.IPV6))
    packets = await _packets(context)
    return Facts(nft, filter_, nat, filter6, nat6, nft4, nft6, _legacy_entries(), programs, managers, packets)


async def _packets(context: Context) -> tuple[Packet, ...]:
    """As they would come in: where the kernel's way to the peers goes out. Without a way, nothing of theirs is answered."""
    asked = {packet: packet.sources[0][min(1, packet.sources[0].num_addresses - 1)] for packet in from_peers(context)}
    ways = await Netlink().ways(asked.values())
    found = ((packet, ways[target]) for packet, target in asked.items())
    return tuple(replace(packet, interface=way.link, address=way.source) for packet, way in found if way.link)


def from_peers(context: Context) -> tuple[Packet, ...]:
    """One of each network that peers are in."""
    port = context.config.proxy.inbound_port
    found: list[Packet] = []
    for version in (4, 6):
        networks: tuple[IPNetwork, ...] = tuple(
            ipaddress.collapse_addresses(network for network in context.peers if network.version == version)  # type: ignore[type-var]
        )
        found += [Packet(port, (network,), version) for network in networks[:MOST_NETWORKS]]
        if rest := networks[MOST_NETWORKS:]:
            found.append(Packet(port, rest, version))
    return tuple(found)


async def _nftables() -> Listing | Untried:
    try:
        listing = await Nftables().listing()
        check_listing(listing)
        return listing
    except NotInKernelError:
        return []
    except ValueError as error:
        return Untried(f"the rules of nftables are listed in a form that is not known here: {error}")
    except HarnessError as error:
        return Untried(f"the rules of nftables cannot be listed: {error.message}")


def check_listing(listing: object) -> None:
    """Raises ValueError unless nftables lists objects with the names that each has."""
    if not isinstance(listing, list):
        raise ValueError("it is no list")
    for item in listing:
        if not isinstance(item, dict):
            raise ValueError("an entry is no mapping")
        for kind, names in _NFT_NAMES.items():
            one = item.get(kind, dict.fromkeys(names, ""))
            if not isinstance(one, dict) or not all(isinstance(one.get(name), str) for name in names):
                raise ValueError(f"a {kind} lacks a name")


async def _dropping(family: Family) -> str | Untried:
    """All tables that can drop a packet."""
    found = await asyncio.gather(*(_table(name, family) for name in iptables_listing.PRIORITIES))
    untried = next((text for text in found if isinstance(text, Untried)), None)
    return untried or "\n".join(text for text in found if isinstance(text, str))


async def _table(name: str, family: Family) -> str | Untried:
    try:
        return await iptables_save.legacy(name, family)
    except HarnessError as error:
        return Untried(f"the rules of legacy iptables cannot be listed: {error.message}")


async def _tables_in_nft(nft: Listing | Untried, family: Family) -> Tables | Untried:
    """Empty where nftables has no table of such a name."""
    if isinstance(nft, Untried):
        return nft
    name = "ip6" if family is Family.IPV6 else "ip"
    if not nft_listing.of_iptables(nft, name):
        return {}
    try:
        return iptables_listing.tables(await iptables_save.nft(family))
    except HarnessError as error:
        return Untried(f"the rules of iptables-nft cannot be listed: {error.message}")


def _legacy_entries() -> int | Untried:
    try:
        return sum(xtables.nat_table(family).entries for family in Family)
    except OSError as error:
        return Untried(f"the nat table of legacy iptables cannot be read: {error.strerror}")


def _programs() -> Iterator[str]:
    """The kernel cuts a name at 15 bytes, which may be within a letter."""
    for name in os.listdir("/proc"):  # noqa: PTH208 — a tenth of pathlib's cost
        if name.isdigit():
            try:
                yield Path("/proc", name, "comm").read_text(errors="replace").strip()
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
