"""Does the kernel do what the records say? Real packets through the real rules, both directions, both families.

A bare SYN is sent, and the kernel's own announcement of the new connection says where NAT sent it and what the original
destination is, which is what SO_ORIGINAL_DST returns to the proxy. So the test works while the proxy serves (it accepts nothing
and notices nothing), before it has started, and for what must *not* be redirected, such as SSH.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import ipaddress
import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyroute2.iproute import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from harness.errors import HarnessError
from harness.packets import Packet, target
from harness.rules import PROXY_USER, Family, Hook, Rule, Rules, for_family
from harness.system import nfnetlink, probe_packet
from harness.values import IPAddress, IPNetwork

WAIT_SECONDS = 0.5
"""For the kernel's announcement, which takes well under a millisecond."""
_LATE_READS = 256
"""When the time is over, what has been announced is still read: on a busy machine this process may not have run until then. The
kernel announces the connections of others too, so the number of these reads has a bound."""
_ANYWHERE = {Family.IPV4: ipaddress.ip_address("203.0.113.1"), Family.IPV6: ipaddress.ip_address("2001:db8:ffff::1")}
_DOMAINS = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_SPARE_PORTS = (9, 1, 80, 8080)
FROM_OUTSIDE = ("redirect", "inbound", *(f"inbound IPv{family.value}" for family in Family))
"""The checks that say whether what peers send is redirected."""
_MOST = 16
"""Candidates and excluded ports that are tried at most, so that the test stays far from its 10 s."""


class Outcome(enum.Enum):
    PASSED = "passed"
    FAILED = "failed"
    UNVERIFIED = "unverified"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing tested: `outbound IPv4`, passed or not, and what was seen."""

    name: str
    outcome: Outcome
    message: str

    def __str__(self) -> str:
        return f"{self.name} {self.outcome.value}: {self.message}"


@dataclass(frozen=True, slots=True)
class Report:
    checks: tuple[Check, ...]

    def having(self, outcome: Outcome) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome is outcome)


@dataclass(frozen=True, slots=True)
class _Route:
    source: IPAddress
    interface: str


@dataclass(frozen=True, slots=True)
class _Announcements:
    """The kernel's, of new connections."""

    listener: socket.socket
    wait_seconds: float

    def of(self, packet: Packet, source_port: int) -> nfnetlink.Connection | None:
        """The connection that this packet began; None when there is none."""
        key = (packet.source, source_port, packet.destination, packet.port)
        deadline = time.monotonic() + self.wait_seconds
        late = 0
        while late < _LATE_READS:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self.listener], [], [], left)[0]:
                return None
            if left == 0.0:
                late += 1
            try:
                data = self.listener.recv(nfnetlink.RECEIVE_BYTES)
            except OSError:
                continue  # ENOBUFS: more was announced than fits; ours may still come
            for seen in nfnetlink.connections(data):
                if (seen.source, seen.source_port, seen.destination, seen.destination_port) == key:
                    return seen
        return None


def self_test(rules: Rules, wait_seconds: float = WAIT_SECONDS) -> Report:
    """Blocking, some tens of milliseconds; up to `wait_seconds` for each check that gets no answer."""
    try:
        listener = nfnetlink.connection_events()
    except OSError as error:
        return Report((_unverified("redirect", f"the kernel announces no connections: {error}"),))
    try:
        announces = nfnetlink.announces_connections()
    except HarnessError as error:
        listener.close()
        return Report((_unverified("redirect", error.message),))
    if not announces:
        listener.close()
        why = "the kernel announces no connections: net.netfilter.nf_conntrack_events is 0 (`sysctl -w` sets it to 1)"
        return Report((_unverified("redirect", why),))
    with listener:
        heard = _Announcements(listener, wait_seconds)
        checks = [check for family in Family for check in _outbound(rules, family, heard)]
        return Report((*checks, *_inbound(rules, heard)))


def _redirects(rules: Rules, hook: Hook, family: Family) -> list[Rule]:
    return [rule for rule in for_family(rules, family) if rule.hook is hook and rule.redirect_to is not None]


def _far(rules: Rules, family: Family) -> list[Rule]:
    """What is redirected on its way to another machine."""
    return [rule for rule in _redirects(rules, Hook.OUTBOUND, family) if rule.interface != "lo"]


def _unverified(name: str, why: str) -> Check:
    return Check(name, Outcome.UNVERIFIED, why)


def _outbound(rules: Rules, family: Family, heard: _Announcements) -> Iterator[Check]:
    name = f"outbound IPv{family.value}"
    candidates = _destinations(rules, family)
    if not candidates:
        return
    sender = next((rule.uid for rule in _far(rules, family) if rule.uid is not None), None)
    uid = os.geteuid() if sender is None else sender
    for destination in candidates:
        route = _route(destination)
        if route is None:
            continue
        for port in _SPARE_PORTS:
            packet = Packet(Hook.OUTBOUND, route.source, destination, port, route.interface, uid)
            if target(rules, packet) is None:
                continue
            yield _observe(name, packet, rules, heard, _send_from_here(sender))
            for proxy in {rule.uid for rule in rules if rule.name == PROXY_USER and rule.uid is not None}:
                own = dataclasses.replace(packet, uid=proxy)
                yield _observe(f"{name} of the proxy itself", own, rules, heard, _send_from_here(proxy))
            return
    yield _unverified(name, "no route to any network that is redirected")


def _send_from_here(uid: int | None = None) -> Callable[[Packet, int], None]:
    return lambda packet, port: probe_packet.send_from_here(packet.source, port, packet.destination, packet.port, uid)


def _inbound(rules: Rules, heard: _Announcements) -> Iterator[Check]:
    families = [family for family in Family if _redirects(rules, Hook.INBOUND, family)]
    if not families:
        return
    try:
        outside = probe_packet.Outside()
    except OSError as error:
        yield _unverified("inbound", f"no packet can be sent from outside: {error}")
        return
    with contextlib.closing(outside):
        for family in families:
            yield from _inbound_family(rules, family, heard, outside)


def _inbound_family(rules: Rules, family: Family, heard: _Announcements, outside: probe_packet.Outside) -> Iterator[Check]:
    name, address = f"inbound IPv{family.value}", _own_address(rules, family)
    if address is None:
        return  # nobody can reach it by this family
    source = probe_packet.OUTSIDE[family.value]
    listed = [ports.first for rule in _redirects(rules, Hook.INBOUND, family) for ports in rule.ports] or _SPARE_PORTS
    excluded = [ports.first for rule in rules if rule.hook is Hook.INBOUND and rule.redirect_to is None for ports in rule.ports]

    def send(packet: Packet, source_port: int) -> None:
        outside.send(source_port, packet.destination, packet.port)

    def packet(port: int) -> Packet:
        return Packet(Hook.INBOUND, source, address, port, probe_packet.OUTSIDE_NAME)

    redirected = next((packet(port) for port in listed if target(rules, packet(port)) is not None), None)
    if redirected is None:
        yield _unverified(name, "no port is redirected that could be tested")
    else:
        yield _observe(name, redirected, rules, heard, send)
    for port in excluded[:_MOST]:
        yield _observe(f"{name} port {port} untouched", packet(port), rules, heard, send)


def _destinations(rules: Rules, family: Family) -> list[IPAddress]:
    """Where to send: network addresses, which nobody has, of the networks and of the routes that lead into them."""
    redirects = _far(rules, family)
    networks = [network for rule in redirects for network in rule.networks]
    if redirects and not networks:
        return [_ANYWHERE[family]]
    inside = [route for route in _routes(family) if any(route.network_address in network for network in networks)]
    return [network.network_address for network in (*networks[:_MOST], *inside[:_MOST])]


def _own_address(rules: Rules, family: Family) -> IPAddress | None:
    """An address by which others know this machine: the source of what it sends to the mesh, else any of global scope."""
    routes = (_route(far) for far in (*_destinations(rules, family), _ANYWHERE[family]))
    sources = [route.source for route in routes if route is not None]
    return next((source for source in (*sources, *_addresses(family)) if not source.is_loopback), None)


def _routes(family: Family) -> list[IPNetwork]:
    with IPRoute() as netlink:
        routes = [(route.get_attr("RTA_DST"), route["dst_len"]) for route in netlink.get_routes(family=_DOMAINS[family])]
    return [ipaddress.ip_network(route) for route in routes if route[0]]


def _addresses(family: Family) -> list[IPAddress]:
    with IPRoute() as netlink:
        links = netlink.get_addr(family=_DOMAINS[family], scope=0)
        addresses = [link.get_attr("IFA_LOCAL") or link.get_attr("IFA_ADDRESS") for link in links]
    return [ipaddress.ip_address(address) for address in addresses if ipaddress.ip_address(address) not in probe_packet.NEAR_END]


def _route(destination: IPAddress) -> _Route | None:
    """How a packet to `destination` would leave, or None without a route or by way of this machine itself."""
    with IPRoute() as netlink:
        try:
            answer = next(iter(netlink.route("get", dst=str(destination))))
            source, index = answer.get_attr("RTA_PREFSRC"), answer.get_attr("RTA_OIF")
            interface = socket.if_indextoname(index)
        except (NetlinkError, StopIteration, OSError):
            return None
    return _Route(ipaddress.ip_address(source), interface) if source and interface != "lo" else None


def _observe(name: str, packet: Packet, rules: Rules, heard: _Announcements, send: Callable[[Packet, int], None]) -> Check:
    """Sends and compares. Nothing announced: outbound it did not get out, a failure; inbound a firewall took it, unverified."""
    expected = target(rules, packet)
    source_port = 20000 + secrets.randbelow(10000)
    try:
        send(packet, source_port)
    except OSError as error:
        return _unverified(name, f"nothing could be sent: {error}")
    seen = heard.of(packet, source_port)
    asked = f"{packet.destination} port {packet.port}"
    if seen is None:
        outcome = Outcome.UNVERIFIED if packet.hook is Hook.INBOUND else Outcome.FAILED
        return Check(name, outcome, f"the kernel tracked no connection to {asked}: it was dropped, or there are no rules")
    went_to = f"{asked} went to {seen.answers_from} port {seen.answers_from_port}"
    if expected is None:
        # Where another's rules sent it is no matter of ours: a container's, or those of this machine's other workload.
        taken = packet.port != seen.answers_from_port and seen.answers_from_port in {rule.redirect_to for rule in rules}
        return Check(name, Outcome.FAILED if taken else Outcome.PASSED, went_to)
    return Check(name, Outcome.PASSED if seen.answers_from_port == expected else Outcome.FAILED, went_to)
