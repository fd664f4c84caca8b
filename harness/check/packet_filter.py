"""What a firewall does with a peer's first packet, read from its rules. Pure, and never surer than the rules allow.

A match that cannot be judged here (an address set, a mark, a limit) may hold or not. A drop behind such a match is not claimed,
and neither is a drop after an accept that may have been taken.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from harness.values import IPNetwork

Truth = bool | None
"""None: it may match or not."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A new TCP connection to a port of this machine, not from loopback. `sources`: where peers may be.

    `version`: of IP; None where both are meant.
    """

    port: int
    sources: tuple[IPNetwork, ...] = ()
    version: int | None = None

    def may_be(self, version: int) -> bool:
        return self.version in (None, version)


class Verdict(enum.Enum):
    ACCEPT = "accept"
    DROP = "drop"
    JUMP = "jump"
    GOTO = "goto"
    RETURN = "return"


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
class _Outcome:
    """`dropped`: by what. `ended`: no further rule of the base chain counts. `perhaps`: an accept may have been taken."""

    dropped: str = ""
    ended: bool = False
    perhaps: bool = False


def dropped_by(chains: Mapping[str, Chain]) -> str | None:
    """The first base chain's rule or policy that surely drops the packet; None when none does."""
    order = {"prerouting": 0, "input": 1}
    bases = [chain for chain in chains.values() if chain.hook in order]
    for base in sorted(bases, key=lambda chain: (order[chain.hook], chain.priority)):
        outcome = _walk(base, chains, frozenset())
        if outcome.dropped:
            return f"{base.name}: {outcome.dropped}"
        if not outcome.ended and not outcome.perhaps and base.drops:
            return f"{base.name}: its policy is drop, and no rule lets it in"
    return None


def _walk(chain: Chain, chains: Mapping[str, Chain], above: frozenset[str]) -> _Outcome:
    perhaps = False
    for rule in chain.rules:
        if rule.matches is False:
            continue
        if rule.verdict is Verdict.RETURN:
            if rule.matches:
                return _Outcome(perhaps=perhaps)
            continue
        if rule.verdict is Verdict.ACCEPT:
            if rule.matches:
                return _Outcome(ended=True, perhaps=perhaps)
            perhaps = True
            continue
        if rule.verdict is Verdict.DROP:
            if rule.matches:
                return _Outcome(ended=True, perhaps=perhaps, dropped="" if perhaps else rule.text)
            continue
        below = chains.get(rule.target)
        if below is None or below.name in above:
            continue
        inner = _walk(below, chains, above | {chain.name})
        perhaps |= inner.perhaps or (rule.matches is None and inner.ended and not inner.dropped)
        if rule.matches and (inner.ended or rule.verdict is Verdict.GOTO):
            return _Outcome("" if perhaps else inner.dropped, inner.ended, perhaps)
    return _Outcome(perhaps=perhaps)


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
