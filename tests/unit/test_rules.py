"""The redirect's records: what a spec means, and that comparing finds every difference."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.packets import Packet, target
from harness.rules import (
    Family,
    Hook,
    Inbound,
    Outbound,
    RedirectSpec,
    Rule,
    Rules,
    differences,
    for_family,
    merge_ports,
    rules_for,
)
from harness.values import PortRange
from tests import redirect_support as support
from tests.redirect_support import networks, ports, rule_sets, spec, specs


def outbound(far: str, port: int = 80, interface: str = "eth0", uid: int = 0) -> Packet:
    destination = ipaddress.ip_address(far)
    return Packet(Hook.OUTBOUND, ipaddress.ip_address("10.0.0.1"), destination, port, interface, uid)


def inbound(port: int, source: str = "192.0.2.9", local: bool = True, interface: str = "eth0") -> Packet:
    far = ipaddress.ip_address(source)
    near = ipaddress.ip_address("10.0.0.1" if far.version == 4 else "fd77::1")
    return Packet(Hook.INBOUND, far, near, port, interface, local=local)


def test_uid_0_is_refused() -> None:
    with pytest.raises(ValueError, match="uid 0"):
        spec(proxy_uid=0)


@pytest.mark.parametrize("name", ["", "*", "a b", "sixteen-letters-", 'x"; flush ruleset', "a/b"])
def test_only_interface_names_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match="interface"):
        spec(ignore_interfaces=(name,))


@pytest.mark.parametrize(
    ("packet", "port"),
    [
        (outbound("10.42.0.5"), 4140),
        (outbound("fd42::5"), 4140),
        (outbound("10.99.0.5"), None),
        (outbound("10.42.0.5", uid=support.PROXY_UID), None),
        (outbound("10.42.0.5", interface="lo"), None),
        (outbound("10.42.0.5", interface="docker0"), None),
        (outbound("10.42.0.5", interface="veth12"), None),
        (outbound("10.42.0.5", port=25), None),
        (outbound("10.42.7.5"), None),
        (inbound(8080), 4143),
        (inbound(8080, "2001:db8::9"), 4143),
        (inbound(8081), None),
        (inbound(22), None),
        (inbound(8080, "10.42.7.5"), None),
        (inbound(8080, local=False), None),
        (inbound(8080, interface="veth12"), None),
    ],
)
def test_what_a_spec_means(packet: Packet, port: int | None) -> None:
    wanted = spec(
        ignore_outbound_ports=ports("25"), ignore_subnets=networks("10.42.7.0/24"), ignore_interfaces=("docker0", "veth*")
    )
    assert target(rules_for(wanted), packet) == port


def test_mode_all_takes_everything_that_is_not_excluded() -> None:
    rules = rules_for(spec(outbound=Outbound.ALL, inbound=Inbound.ALL))
    assert target(rules, outbound("203.0.113.5")) == 4140
    assert target(rules, inbound(12345)) == 4143
    assert target(rules, inbound(22)) is None


def test_without_ipv6_only_ipv4_is_redirected() -> None:
    rules = rules_for(spec(ipv6=False))
    assert for_family(rules, Family.IPV6) == ()
    assert target(rules, outbound("fd42::5")) is None
    assert target(rules, inbound(8080, "2001:db8::9")) is None
    assert target(rules, inbound(8080)) == 4143


def test_nothing_to_redirect_leaves_no_rules() -> None:
    assert rules_for(spec(outbound=Outbound.OFF, inbound=Inbound.OFF)) == ()
    assert rules_for(spec(outbound_networks=(), inbound_ports=())) == ()


@support.patient
@given(specs, st.integers(1, 65535))
def test_never_the_proxy_never_loopback_never_an_ignored_port(wanted: RedirectSpec, port: int) -> None:
    rules = rules_for(wanted)
    assert target(rules, outbound("10.42.0.5", port, uid=wanted.proxy_uid)) is None
    assert target(rules, outbound("10.42.0.5", port, interface="lo", uid=1)) is None
    assert target(rules, inbound(port, local=False)) is None
    if any(port in ignored for ignored in wanted.ignore_inbound_ports):
        assert target(rules, inbound(port)) is None
    if any(port in ignored for ignored in wanted.ignore_outbound_ports):
        assert target(rules, outbound("10.42.0.5", port)) is None


@given(st.lists(support.port_ranges))
def test_merged_ports_are_the_same_ports(ranges: list[PortRange]) -> None:
    merged = merge_ports(ranges)
    assert {n for r in merged for n in range(r.first, r.last + 1)} == {n for r in ranges for n in range(r.first, r.last + 1)}
    assert all(a.last + 1 < b.first for a, b in itertools.pairwise(merged))


@support.patient
@given(specs)
def test_no_difference_to_itself(wanted: RedirectSpec) -> None:
    assert differences(rules_for(wanted), rules_for(wanted)) == ()


@support.patient
@given(rule_sets(), st.data())
def test_every_edit_is_a_difference(rules: Rules, data: st.DataObject) -> None:
    """Dropping, doubling or changing a rule is told, unless it is one of a family for which nothing is redirected."""
    index = data.draw(st.integers(0, len(rules) - 1))
    rule = rules[index]
    other = dataclasses.replace(rule, name=rule.name + "x")
    edits: list[tuple[Rule, ...]] = [(), (other,), (rule, rule)]
    edit = data.draw(st.sampled_from(edits))
    edited = (*rules[:index], *edit, *rules[index + 1 :])
    means_the_same = all(for_family(rules, family) == for_family(edited, family) for family in Family)
    assert bool(differences(rules, edited)) != means_the_same


def test_order_matters() -> None:
    rules = rules_for(spec())
    assert differences(rules, tuple(reversed(rules))) == (
        "the IPv4 rules are in another order or doubled",
        "the IPv6 rules are in another order or doubled",
    )
