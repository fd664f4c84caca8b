"""The redirect as data: what is wanted (RedirectSpec) and the rule records that follow from it. No I/O.

Each backend renders the same records; `plan`, tests and docs print them.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.values import IPNetwork, PortRange, parse_interface


class Outbound(enum.Enum):
    """Which outbound TCP goes through the proxy."""

    MESH = "mesh"  # to the networks of the mesh only
    ALL = "all"  # the reference product's behaviour
    OFF = "off"


class Inbound(enum.Enum):
    """Which inbound TCP to a local address goes through the proxy."""

    PORTS = "ports"  # to the group's ports only
    ALL = "all"  # to every port that is not excluded
    OFF = "off"


class Hook(enum.Enum):
    """Where a rule stands; the value is the chain's name."""

    INBOUND = "inbound"  # nat prerouting
    OUTBOUND = "outbound"  # nat output


class Family(enum.Enum):
    IPV4 = 4
    IPV6 = 6


@dataclass(frozen=True, slots=True)
class RedirectSpec:
    """What the redirect must do, complete: two equal specs give equal rules.

    The caller has already put together what is always excluded (SSH, 4190, 4191, 4567, 4568, the harness's admin port).
    Raises ValueError for uid 0 and for a name that cannot be an interface's; a trailing `*` in one stands for any ending.
    """

    proxy_uid: int
    inbound_port: int = 4143
    outbound_port: int = 4140
    outbound: Outbound = Outbound.MESH
    inbound: Inbound = Inbound.PORTS
    outbound_networks: tuple[IPNetwork, ...] = ()
    inbound_ports: tuple[PortRange, ...] = ()
    ignore_inbound_ports: tuple[PortRange, ...] = ()
    ignore_outbound_ports: tuple[PortRange, ...] = ()
    ignore_subnets: tuple[IPNetwork, ...] = ()
    """Never redirected, in either direction: as a source inbound, as a destination outbound."""
    ignore_destinations: tuple[IPNetwork, ...] = ()
    """Outbound only: what the harness itself must reach without the proxy. (Its node may well be the source of mesh traffic.)"""
    ignore_interfaces: tuple[str, ...] = ()
    own_links: tuple[tuple[str, IPNetwork], ...] = ()
    """Outbound only: what this machine's own links have of the mesh's networks, such as a container network with addresses of
    pods. The rule holds only while the kernel sends the packet out by that link. So after a change of routes no packet for a pod
    is left alone."""
    ipv6: bool = True
    users: tuple[int, ...] = ()
    """Outbound only: whose connections are redirected; everybody's if empty."""
    ignore_users: tuple[int, ...] = ()
    """Outbound only: whose are not, which are those of this machine's other workloads, and of their proxies."""
    neighbours: tuple[int, ...] = ()
    """Users of this machine's other proxies: to `inbound_ports` of one of its own addresses they come as peers do."""
    hold: bool = False
    """No proxy serves yet, or any more: what would go through it to the mesh is refused, and nothing else is redirected."""

    def __post_init__(self) -> None:
        if self.proxy_uid == 0:
            raise ValueError("the proxy must not run as uid 0: every root process would bypass the mesh")
        for interface in self.ignore_interfaces:
            parse_interface(interface)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what it matches (everything given must hold), and whether a match is redirected or left alone.

    A redirect takes new TCP connections only (SYN without ACK): a connection that exists when the rules come is never cut,
    not even when connection tracking first hears of it in midstream.
    """

    name: str
    hook: Hook
    redirect_to: int | None = None
    """The proxy's port; None leaves the connection to the rest of the machine's rules."""
    family: Family | None = None
    not_local: bool = False
    """The destination is no address of this machine: forwarded traffic."""
    uid: int | None = None
    interface: str = ""
    """The interface a packet comes in by (inbound) or goes out by (outbound)."""
    networks: tuple[IPNetwork, ...] = ()
    """All of `family`; the source (inbound) or the destination (outbound)."""
    ports: tuple[PortRange, ...] = ()
    """TCP destination ports."""

    def __str__(self) -> str:
        inbound = self.hook is Hook.INBOUND
        words = [f"{self.hook.value}:"]
        if self.family is not None:
            words.append(f"IPv{self.family.value}")
        if self.not_local:
            words.append("to other machines")
        if self.uid is not None:
            words.append(f"of uid {self.uid}")
        if self.interface:
            words.append(f"{'in by' if inbound else 'out by'} {self.interface}")
        if self.networks:
            words.append(f"{'from' if inbound else 'to'} {', '.join(map(str, self.networks))}")
        if self.ports:
            words.append(f"to port {', '.join(map(str, self.ports))}")
        words.append("→ refused" if self.redirect_to == HOLD_PORT else f"→ {self.redirect_to or 'left alone'}")
        return " ".join(words)


Rules = tuple[Rule, ...]
PROXY_USER = "proxy-user"
"""The name of the rule that leaves the proxy's own connections alone."""
HOLD_PORT = 1
"""Of this machine, where nobody listens: a connection that is held is sent there and refused. Chains for NAT have no reject."""


def merge_ports(ports: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The same ports in ascending order, without overlap, and joined where they touch."""
    merged: list[PortRange] = []
    for current in sorted(ports):
        if merged and current.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, current.last))
        else:
            merged.append(current)
    return tuple(merged)


def merge_networks(networks: Iterable[IPNetwork], family: Family) -> tuple[IPNetwork, ...]:
    """The networks of one family, in ascending order and without overlap."""
    return tuple(ipaddress.collapse_addresses(n for n in networks if n.version == family.value))  # type: ignore[type-var]


def rules_for(spec: RedirectSpec) -> Rules:
    """The records for `spec`, in the order in which they are tried; a direction without a redirect has none."""
    if spec.hold:
        outbound = Outbound.OFF if spec.outbound is Outbound.OFF else Outbound.MESH
        only = dataclasses.replace(spec, hold=False, outbound=outbound, outbound_port=HOLD_PORT, inbound=Inbound.OFF)
        return tuple(_outbound(only))
    return tuple(_inbound(spec)) + tuple(_outbound(spec))


def held(rules: Rules) -> Rules:
    """The same outbound connections, refused: what redirect rules that are in force become when their proxy is to end."""
    return tuple(
        rule if rule.redirect_to is None else dataclasses.replace(rule, redirect_to=HOLD_PORT)
        for rule in rules
        if rule.hook is Hook.OUTBOUND and not (rule.redirect_to is not None and rule.interface == "lo")
    )


def is_hold(rules: Rules) -> bool:
    targets = {rule.redirect_to for rule in rules} - {None}
    return targets == {HOLD_PORT}


def networks_of(rules: Rules) -> tuple[IPNetwork, ...]:
    """Where outbound connections are redirected or held."""
    outbound = [rule for rule in rules if rule.hook is Hook.OUTBOUND and rule.redirect_to is not None]
    return tuple(dict.fromkeys(network for rule in outbound for network in rule.networks))


def _families(spec: RedirectSpec) -> tuple[Family, ...]:
    return (Family.IPV4, Family.IPV6) if spec.ipv6 else (Family.IPV4,)


def _per_family(rule: Rule, networks: Iterable[IPNetwork], spec: RedirectSpec) -> Iterator[Rule]:
    """`rule` narrowed to `networks`, one record for each family that has any. A /0 needs no list: the family says it."""
    for family in _families(spec):
        if merged := merge_networks(networks, family):
            named = dataclasses.replace(rule, name=f"{rule.name}-ipv{family.value}", family=family)
            yield named if merged[0].prefixlen == 0 else dataclasses.replace(named, networks=merged)


def _redirect(hook: Hook, port: int, spec: RedirectSpec) -> Rule:
    return Rule("redirect", hook, redirect_to=port, family=None if spec.ipv6 else Family.IPV4)


def _outbound(spec: RedirectSpec) -> Iterator[Rule]:
    hook = Hook.OUTBOUND
    redirect = _redirect(hook, spec.outbound_port, spec)
    match spec.outbound:
        case Outbound.ALL:
            last = [redirect]
        case Outbound.MESH:
            last = list(_per_family(redirect, spec.outbound_networks, spec))
        case Outbound.OFF:
            last = []
    near = list(_from_neighbours(spec))
    if not last and not near:
        return
    yield from near
    yield Rule(PROXY_USER, hook, uid=spec.proxy_uid)
    yield from (Rule(f"user-{uid}", hook, uid=uid) for uid in sorted(set(spec.ignore_users)))
    yield Rule("loopback", hook, interface="lo")
    yield from (Rule(f"interface-{name}", hook, interface=name) for name in sorted(set(spec.ignore_interfaces)))
    if spec.ignore_outbound_ports:
        yield Rule("ports", hook, ports=merge_ports(spec.ignore_outbound_ports))
    yield from _per_family(Rule("subnets", hook), (*spec.ignore_subnets, *spec.ignore_destinations), spec)
    for link in sorted({link for link, _ in spec.own_links}):
        networks = [network for name, network in spec.own_links if name == link]
        yield from _per_family(Rule(f"own-link-{link}", hook, interface=link), networks, spec)
    yield from (_of_user(rule, uid) for uid in sorted(set(spec.users)) for rule in last) if spec.users else last


def _of_user(rule: Rule, uid: int) -> Rule:
    return dataclasses.replace(rule, name=f"{rule.name}-user-{uid}", uid=uid)


def _from_neighbours(spec: RedirectSpec) -> Iterator[Rule]:
    """What one of this machine's proxies sends to another's workload never passes prerouting."""
    if spec.inbound is Inbound.OFF or not spec.inbound_ports:
        return
    redirect = dataclasses.replace(_redirect(Hook.OUTBOUND, spec.inbound_port, spec), ports=merge_ports(spec.inbound_ports))
    for uid in sorted(set(spec.neighbours)):
        yield dataclasses.replace(redirect, name=f"neighbour-{uid}", uid=uid, interface="lo")


def _inbound(spec: RedirectSpec) -> Iterator[Rule]:
    hook = Hook.INBOUND
    redirect = _redirect(hook, spec.inbound_port, spec)
    match spec.inbound:
        case Inbound.ALL:
            last = [redirect]
        case Inbound.PORTS if spec.inbound_ports:
            last = [dataclasses.replace(redirect, ports=merge_ports(spec.inbound_ports))]
        case _:
            last = []
    if not last:
        return
    yield Rule("forwarded", hook, not_local=True)
    yield from (Rule(f"interface-{name}", hook, interface=name) for name in sorted(set(spec.ignore_interfaces)))
    if spec.ignore_inbound_ports:
        yield Rule("ports", hook, ports=merge_ports(spec.ignore_inbound_ports))
    yield from _per_family(Rule("subnets", hook), spec.ignore_subnets, spec)
    yield from last


def for_family(rules: Iterable[Rule], family: Family) -> Rules:
    """What `rules` mean to one family: its own and the common ones, and no direction in which nothing is redirected."""
    own = [dataclasses.replace(r, family=family) for r in rules if r.family in (None, family)]
    redirected = {r.hook for r in own if r.redirect_to is not None}
    return tuple(sorted((r for r in own if r.hook in redirected), key=lambda r: r.hook.value))


def differences(wanted: Rules, found: Rules) -> tuple[str, ...]:
    """What sets `found` apart from `wanted`, a sentence each; empty exactly when both mean the same to both families."""
    if wanted == found:
        return ()
    sentences: dict[str, None] = {}
    for family in Family:
        want, have = for_family(wanted, family), for_family(found, family)
        if want == have:
            continue
        wanted_set, found_set = set(want), set(have)
        sentences.update({f"missing: {rule.name}, {rule}": None for rule in want if rule not in found_set})
        sentences.update({f"not ours: {rule.name or 'without a name'}, {rule}": None for rule in have if rule not in wanted_set})
        if wanted_set == found_set:
            sentences[f"the IPv{family.value} rules are in another order or doubled"] = None
    return tuple(sentences)
