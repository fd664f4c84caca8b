"""What a firewall does with a peer's first packet, read from its rules. Pure, and never surer than the rules allow.

A match that cannot be judged here (an address set, a mark, a limit) may hold or not, so both ways are followed. What can end
either way is neither a drop nor a passage: it is not known.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.values import IPAddress, IPNetwork

Truth = bool | None
"""None: it may match or not."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A new TCP connection (SYN) to a port of this machine, not from loopback. `sources`: where peers may be.

    `version`: of IP; None where both are meant. `interface` and `address`: where it arrives, and at which of this machine's
    addresses; empty and None when that is not known.
    """

    port: int
    sources: tuple[IPNetwork, ...] = ()
    version: int | None = None
    interface: str = ""
    address: IPAddress | None = None

    def may_be(self, version: int) -> bool:
        return self.version in (None, version)

    def through(self, interface: str, wildcard: str) -> Truth:
        """Whether it comes in there; `interface` may end with the `wildcard`."""
        if interface == "lo":
            return False
        if interface.endswith(wildcard):
            stem = interface.removesuffix(wildcard)
            return self.interface.startswith(stem) if self.interface else None
        return self.interface == interface if self.interface else None

    def to(self, network: IPNetwork) -> Truth:
        """Whether its destination, which is an address of this machine, is in the network."""
        if network.prefixlen == 0:
            return True
        if network.is_multicast or not self.may_be(network.version):
            return False
        return self.address in network if self.address is not None else None


class Verdict(enum.Enum):
    ACCEPT = "accept"
    DROP = "drop"
    JUMP = "jump"
    GOTO = "goto"
    RETURN = "return"
    UNKNOWN = "unknown"
    """A program decides, or something that is not read here."""


@dataclass(frozen=True, slots=True)
class Rule:
    matches: Truth
    verdict: Verdict
    target: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """`hook` is empty for one that is only jumped to; `name` is unique over all tables, for people too."""

    name: str
    rules: tuple[Rule, ...]
    hook: str = ""
    priority: int = 0
    drops: bool = False
    """Its policy."""


@dataclass(frozen=True, slots=True)
class _Ways:
    """How a packet may leave a chain: `dropped` by what, `accepted`, or `back` to where it came from.

    `undecided`: the first rule whose match is not known, and which changes the way.
    """

    accepted: bool = False
    dropped: str = ""
    back: bool = False
    undecided: str = ""

    def or_(self, other: _Ways) -> _Ways:
        return _Ways(
            self.accepted or other.accepted,
            self.dropped or other.dropped,
            self.back or other.back,
            self.undecided or other.undecided,
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """`dropped`: the rule or policy that surely drops the packet. `unknown`: why that cannot be told. Both empty: it passes."""

    dropped: str = ""
    unknown: str = ""


_HOOKS = {"ingress": 0, "prerouting": 1, "input": 2}


def decided(chains: Mapping[str, Chain]) -> Decision:
    """What all base chains together do with it: an accept ends one of them, a drop ends all."""
    bases = [chain for chain in chains.values() if chain.hook in _HOOKS]
    unknown = ""
    walked: dict[str, _Ways] = {}
    for base in sorted(bases, key=lambda chain: (_HOOKS[chain.hook], chain.priority)):
        ways = _walk(base, chains, walked, frozenset())
        if ways.back:
            policy = "its policy is drop, and no rule lets it in" if base.drops else ""
            ways = ways.or_(_Ways(not base.drops, policy))
        if ways.dropped and not ways.accepted:
            return Decision(f"{base.name}: {ways.dropped}")
        if ways.dropped and not unknown:
            unknown = f"{base.name}: whether {ways.undecided} applies to peers cannot be told from the rules"
    return Decision(unknown=unknown)


def _walk(chain: Chain, chains: Mapping[str, Chain], walked: dict[str, _Ways], above: frozenset[str]) -> _Ways:
    if chain.name in walked:
        return walked[chain.name]
    found = _Ways()
    for rule in chain.rules:
        if rule.matches is False:
            continue
        ways, goes_on = _rule(rule, chains, walked, above | {chain.name})
        if rule.matches is None and (ways.accepted or ways.dropped or ways.back):
            found = found.or_(_Ways(undecided=rule.text))
        found = found.or_(ways)
        if rule.matches and not goes_on:
            break
    else:
        found = replace(found, back=True)
    walked[chain.name] = found
    return found


def _rule(rule: Rule, chains: Mapping[str, Chain], walked: dict[str, _Ways], above: frozenset[str]) -> tuple[_Ways, bool]:
    """Where a packet that the rule matches may go, and whether that is also on to the next rule."""
    match rule.verdict:
        case Verdict.ACCEPT:
            return _Ways(accepted=True), False
        case Verdict.DROP:
            return _Ways(dropped=rule.text), False
        case Verdict.RETURN:
            return _Ways(back=True), False
        case Verdict.JUMP | Verdict.GOTO if rule.target in chains and rule.target not in above:
            below = _walk(chains[rule.target], chains, walked, above)
            if rule.verdict is Verdict.GOTO:
                return below, False
            return replace(below, back=False), below.back
    return _Ways(accepted=True, dropped=rule.text, undecided=rule.text), True


def all_of(*matches: Truth) -> Truth:
    if False in matches:
        return False
    return None if None in matches else True


def negated(match: Truth, negate: bool) -> Truth:
    return (not match) if negate and match is not None else match


def from_network(packet: Packet, network: IPNetwork) -> Truth:
    """Whether the peer is in it: surely not when no mesh network touches it."""
    if not packet.may_be(network.version):
        return False
    related = [source for source in packet.sources if source.version == network.version]
    if network.prefixlen == 0:
        return True
    if related and not any(source.overlaps(network) for source in related):
        return False
    return True if related and all(source.subnet_of(network) for source in related) else None  # type: ignore[arg-type]
