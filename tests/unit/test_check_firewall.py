"""What is read out of a firewall's rules: a drop and a passage are claimed when they are sure, and never otherwise."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.check import firewall_facts, iptables_listing, nft_listing, packet_filter
from harness.check.packet_filter import Chain, Decision, Packet

PACKET = Packet(4143, (ipaddress.ip_network("10.42.0.0/16"), ipaddress.ip_network("10.43.0.0/16")))


DROPPED, PASSES, UNKNOWN = "dropped", "passes", "unknown"


def outcome(decision: Decision) -> str:
    if decision.dropped:
        return DROPPED
    return UNKNOWN if decision.unknown else PASSES


def iptables(*lines: str, policy: str = "ACCEPT", packet: Packet = PACKET) -> Decision:
    text = "\n".join(["*filter", f":INPUT {policy} [0:0]", ":OURS - [0:0]", *lines, "COMMIT"])
    return packet_filter.decided(iptables_listing.chains(text, packet, "iptables"))


@pytest.mark.parametrize(
    ("lines", "policy", "expected"),
    [
        ((), "ACCEPT", PASSES),
        ((), "DROP", DROPPED),
        (("-A INPUT -p tcp -m tcp --dport 4143 -j ACCEPT",), "DROP", PASSES),
        (("-A INPUT -p tcp -m multiport --dports 22,4143 -j ACCEPT",), "DROP", PASSES),
        (("-A INPUT -p tcp -m multiport ! --dports 22,80 -j DROP",), "ACCEPT", DROPPED),
        (("-A INPUT -p tcp -m tcp --dport 4000:5000 -j DROP",), "ACCEPT", DROPPED),
        (("-A INPUT -p tcp -m tcp --sport 1024:65535 --dport 4143 -j ACCEPT",), "DROP", PASSES),
        (("-A INPUT -p tcp -m tcp --sport 20 --dport 4143 -j ACCEPT",), "DROP", UNKNOWN),
        (("-A INPUT -p udp -m udp --dport 4143 -j DROP",), "ACCEPT", PASSES),
        (("-A INPUT -i lo -j ACCEPT", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"), "DROP", DROPPED),
        (("-A INPUT -m state --state NEW -j ACCEPT",), "DROP", PASSES),
        (("-A INPUT ! -i lo -p tcp -j REJECT --reject-with tcp-reset",), "ACCEPT", DROPPED),
        (("-A INPUT -j OURS", "-A OURS -p tcp -m tcp --dport 4143 -j ACCEPT"), "DROP", PASSES),
        (("-A INPUT -j OURS", "-A OURS -p tcp -m tcp --dport 4143 -j RETURN", "-A OURS -j ACCEPT"), "DROP", DROPPED),
        (("-A INPUT -g OURS", "-A INPUT -j ACCEPT"), "DROP", DROPPED),
        (("-A INPUT -s 192.168.0.0/16 -j ACCEPT",), "DROP", DROPPED),
        (("-A INPUT -s 10.0.0.0/8 -j ACCEPT",), "DROP", PASSES),
        (("-A INPUT -s 10.42.0.0/16 -j DROP",), "ACCEPT", UNKNOWN),  # of the packet's sources only some
        (("-A INPUT -s 10.42.0.0/255.0.255.0 -j DROP",), "ACCEPT", UNKNOWN),
        (("-A INPUT -i eth1 -j ACCEPT",), "DROP", UNKNOWN),  # peers may come that way
        (("-A INPUT -d 224.0.0.251/32 -j DROP",), "ACCEPT", PASSES),
        (("-A INPUT -d 192.0.2.1/32 -j DROP",), "ACCEPT", UNKNOWN),
        (("-A INPUT -m addrtype ! --dst-type LOCAL -j DROP",), "ACCEPT", PASSES),
        (("-A INPUT -m addrtype --dst-type LOCAL -j DROP",), "ACCEPT", DROPPED),
        (("-A INPUT -m set --match-set peers src -j ACCEPT",), "DROP", UNKNOWN),
        (("-A INPUT -m socket -j ACCEPT",), "DROP", UNKNOWN),
        (("-A INPUT -m string --string x --algo bm -j DROP", "-A INPUT -j DROP"), "ACCEPT", DROPPED),
        (("-A INPUT -m string --string x --algo bm -j RETURN",), "DROP", DROPPED),
        (("-A INPUT -m string --string x --algo bm -j ACCEPT",), "ACCEPT", PASSES),
        (("-A INPUT -p tcp -m limit --limit 5/min -j LOG --log-prefix \"x y \"",), "ACCEPT", PASSES),
        (("-A INPUT -p tcp -m limit --limit 5/min -j ACCEPT",), "DROP", UNKNOWN),
        (("-A INPUT -p tcp -m connlimit --connlimit-above 9 -j REJECT",), "ACCEPT", UNKNOWN),
        (("-A INPUT -p tcp -m rpfilter --invert -j DROP",), "ACCEPT", PASSES),
        (("-A INPUT -p tcp -j NFQUEUE --queue-num 0",), "ACCEPT", UNKNOWN),
        (("-A INPUT -p tcp -j SYNPROXY --sack-perm",), "ACCEPT", UNKNOWN),
        (("-A INPUT -p tcp -m comment --comment \"- -j DROP ! -i lo\" -j ACCEPT",), "DROP", PASSES),
        (("-A INPUT -p tcp -m comment --comment \"--dport 22\" -j ACCEPT",), "DROP", PASSES),
        (("-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP",), "ACCEPT", PASSES),
        (("-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",), "ACCEPT", PASSES),
        (("-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",), "ACCEPT", DROPPED),
        (("-A INPUT -m bpf [unsupported revision] -j DROP",), "ACCEPT", UNKNOWN),
    ],
)  # fmt: skip
def test_rules_of_iptables(lines: tuple[str, ...], policy: str, expected: str) -> None:
    assert outcome(iptables(*lines, policy=policy)) == expected


def test_what_cannot_be_told_is_named() -> None:
    unknown = iptables("-A INPUT -m set --match-set bad src -j DROP").unknown
    assert unknown.startswith("iptables filter INPUT: whether `-A INPUT -m set --match-set bad src -j DROP` applies")


@pytest.mark.parametrize(
    ("interface", "expected"), [("eth0", PASSES), ("eth0.5", DROPPED), ("", UNKNOWN)], ids=["there", "elsewhere", "not known"]
)
def test_where_the_packet_comes_in(interface: str, expected: str) -> None:
    there = replace(PACKET, interface=interface)
    assert outcome(iptables("-A INPUT -i eth0 -j ACCEPT", policy="DROP", packet=there)) == expected
    wide = iptables("-A INPUT -i eth+ -j ACCEPT", policy="DROP", packet=there)
    assert outcome(wide) == (PASSES if interface else UNKNOWN)


# What real programs made: `ufw enable`, `firewall-cmd --add-interface`, dockerd, and a person.
RULES = Path(__file__).parent / "firewall_rules"
PEER4 = Packet(4143, (ipaddress.ip_network("10.42.0.0/16"),), 4, "eth0", ipaddress.ip_address("10.9.0.2"))
PEER6 = Packet(4143, (ipaddress.ip_network("fd42::/64"),), 6, "eth0", ipaddress.ip_address("fd09::2"))
LIMIT = "-m recent --update --seconds 30 --hitcount 6 --name DEFAULT --mask 255.255.255.255 --rsource -j ufw-user-limit"


def real(name: str, packet: Packet, *more: str) -> Decision:
    """`more`: rules at the end of the table."""
    text = (RULES / f"{name}.rules").read_text().replace("COMMIT", "\n".join((*more, "COMMIT")))
    found: dict[str, Chain] = {}
    for table, lines in iptables_listing.tables(text).items():
        found |= iptables_listing.chains(lines, packet, "iptables-nft", table)
    assert any(chain.hook for chain in found.values()) and any(chain.rules for chain in found.values())
    return packet_filter.decided(found)


@pytest.mark.parametrize(
    ("name", "packet", "more", "expected"),
    [
        ("ufw", PEER4, (), DROPPED),
        ("ufw", PEER4, ("-A ufw-user-input -p tcp -m tcp --dport 4143 -j ACCEPT",), PASSES),
        ("ufw", PEER4, ("-A ufw-user-input -s 10.42.0.0/16 -p tcp -m multiport --dports 80,4143 -j ACCEPT",), PASSES),
        ("ufw", PEER4, ("-A ufw-user-input -s 192.0.2.0/24 -p tcp -m tcp --dport 4143 -j ACCEPT",), DROPPED),
        ("ufw", PEER4, (
            f"-A ufw-user-input -p tcp -m tcp --dport 4143 -m conntrack --ctstate NEW {LIMIT}",
            "-A ufw-user-input -p tcp -m tcp --dport 4143 -j ufw-user-limit-accept",
        ), UNKNOWN),
        ("ufw6", PEER6, (), DROPPED),
        ("ufw6", PEER6, ("-A ufw6-user-input -p tcp -m tcp --dport 4143 -j ACCEPT",), PASSES),
        ("firewalld", PEER4, (), DROPPED),
        ("firewalld", PEER4, ("-A IN_public_allow -p tcp -m tcp --dport 4143 -j ACCEPT",), PASSES),
        ("docker", PEER4, (), PASSES),
        ("by_hand", PEER4, (), DROPPED),
        ("by_hand", PEER4, ("-A INPUT -p tcp -m conntrack --ctstate NEW -m multiport --dports 4143 -j ACCEPT",), PASSES),
    ],
)  # fmt: skip
def test_rules_that_real_programs_made(name: str, packet: Packet, more: tuple[str, ...], expected: str) -> None:
    found = real(name, packet, *more)
    assert outcome(found) == expected, found


def test_the_rule_of_a_real_program_is_named() -> None:
    assert real("ufw", PEER4).dropped == "iptables-nft filter INPUT: its policy is drop, and no rule lets it in"
    assert "`-A IN_public -j REJECT --reject-with icmp-port-unreachable`" in real("firewalld", PEER4).dropped
    docker = iptables_listing.tables((RULES / "docker.rules").read_text())
    assert iptables_listing.published(docker["nat"], frozenset({8000, 9000})) == (8000,)


@pytest.mark.parametrize("packet", [PEER4, PEER6], ids=["IPv4", "IPv6"])
def test_firewalld_with_nftables(packet: Packet) -> None:
    listing = json.loads((RULES / "firewalld.json").read_text())["nftables"]
    assert "reject by handle" in packet_filter.decided(nft_listing.chains(listing, packet)).dropped
    place = {"family": "inet", "table": "firewalld", "chain": "filter_IN_public_allow", "handle": 999}
    listing.append({"rule": {**place, "expr": [dport(4143), {"accept": None}]}})
    assert outcome(packet_filter.decided(nft_listing.chains(listing, packet))) == PASSES


def dport(value: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": value}}


def nft(*rules: list[dict[str, Any]], policy: str = "accept", table: str = "fw") -> Decision:
    base = {"family": "inet", "table": table, "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": policy}
    listing: list[dict[str, Any]] = [{"chain": base}, {"chain": {"family": "inet", "table": table, "name": "more"}}]
    listing += [{"rule": {"family": "inet", "table": table, "chain": "in", "handle": 9, "expr": expr}} for expr in rules]
    listing += [
        {"rule": {"family": "inet", "table": table, "chain": "more", "handle": 8, "expr": [dport(4143), {"accept": None}]}}
    ]
    return packet_filter.decided(nft_listing.chains(listing, PACKET))


STATE = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
DNAT = {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}
IN_SET = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@peers"}}
LOCAL = {"match": {"op": "==", "left": {"fib": {"result": "type", "flags": ["daddr"]}}, "right": "local"}}
NO_WAY_BACK = {"match": {"op": "==", "left": {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, "right": False}}


def flags(mask: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, mask]}, "right": right}}


def tcp_flags(op: str, right: Any) -> dict[str, Any]:
    return {"match": {"op": op, "left": {"payload": {"protocol": "tcp", "field": "flags"}}, "right": right}}


DROP: dict[str, Any] = {"drop": None}
JUMP = {"jump": {"target": "more"}}


@pytest.mark.parametrize(
    ("rules", "policy", "expected"),
    [
        ([], "accept", PASSES),
        ([], "drop", DROPPED),
        ([[dport({"set": [22, {"range": [4000, 4200]}]}), {"accept": None}]], "drop", PASSES),
        ([[dport(22, "!="), {"drop": None}]], "accept", DROPPED),
        ([[{"counter": {"packets": 0, "bytes": 0}}, {"reject": {"type": "icmpx"}}]], "accept", DROPPED),
        ([[STATE, {"accept": None}], [DNAT, {"accept": None}], [{"reject": None}]], "accept", DROPPED),  # firewalld's
        ([[IN_SET, {"accept": None}]], "drop", UNKNOWN),
        ([[IN_SET, {"drop": None}]], "accept", UNKNOWN),
        ([[JUMP]], "drop", PASSES),
        ([[IN_SET, JUMP]], "drop", UNKNOWN),
        ([[{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["new", JUMP], ["invalid", DROP]]}}}]], "drop", PASSES),
        ([[{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["new", {"continue": None}]]}}}]], "accept", PASSES),
        ([[{"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": "@verdicts"}}]], "drop", UNKNOWN),
        ([[{"xt": {"type": "match", "name": "string"}}, {"drop": None}]], "accept", UNKNOWN),
        ([[{"limit": {"rate": 9, "per": "second"}}, {"drop": None}]], "accept", UNKNOWN),
        ([[flags(["fin", "syn"], ["fin", "syn"]), {"drop": None}]], "accept", PASSES),
        ([[flags({"|": ["fin", "syn", "rst", "ack"]}, "syn", "!="), {"drop": None}]], "accept", PASSES),
        ([[flags(["fin", "syn", "rst", "ack"], "syn"), {"drop": None}]], "accept", DROPPED),
        # As nft 1.0.6 lists `tcp flags` with == syn|ack; syn; syn,ack; != syn; ! fin,rst; { ack, syn | ack }; { ack, syn }.
        ([[tcp_flags("==", 18), DROP]], "accept", PASSES),
        ([[tcp_flags("==", {"|": ["syn", "ack"]}), DROP]], "accept", PASSES),
        ([[tcp_flags("in", "syn"), DROP]], "accept", DROPPED),
        ([[tcp_flags("in", ["syn", "ack"]), DROP]], "accept", DROPPED),
        ([[tcp_flags("!=", "syn"), DROP]], "accept", PASSES),
        ([[tcp_flags("!", ["fin", "rst"]), DROP]], "accept", DROPPED),
        ([[tcp_flags("==", {"set": ["ack", {"|": ["syn", "ack"]}]}), DROP]], "accept", PASSES),
        ([[tcp_flags("==", {"set": ["ack", "syn"]}), DROP]], "accept", DROPPED),
        ([[tcp_flags("==", "@some"), DROP]], "accept", UNKNOWN),
        ([[LOCAL, {"accept": None}]], "drop", PASSES),
        ([[NO_WAY_BACK, {"drop": None}]], "accept", PASSES),
        ([[{"queue": {"num": 0}}]], "accept", UNKNOWN),
    ],
)  # fmt: skip
def test_nftables_rules(rules: list[list[dict[str, Any]]], policy: str, expected: str) -> None:
    assert outcome(nft(*rules, policy=policy)) == expected


def test_a_program_whose_name_is_cut_within_a_letter() -> None:
    """The kernel cuts it at 15 bytes."""
    rename = "open('/proc/self/comm', 'wb').write('службасбора'.encode()); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as named:
        assert named.stdout is not None and named.stdout.readline() == b"\n"
        assert any(name.startswith("служба") for name in firewall_facts._programs())
        named.kill()


def test_our_own_table_is_not_asked_and_the_place_is_named() -> None:
    assert outcome(nft(policy="drop", table="meshexp")) == PASSES
    assert outcome(nft(policy="drop", table="meshexp-api")) == PASSES, "another workload's of this machine"
    assert outcome(nft(policy="drop", table="meshexpress")) == DROPPED
    assert nft([dport(4143), {"drop": None}]).dropped == "inet fw in: drop by handle 9 of in"
    assert "policy is drop" in nft(policy="drop").dropped


def test_a_drop_at_the_link_is_seen() -> None:
    base = {"family": "netdev", "table": "fw", "name": "in", "type": "filter", "hook": "ingress", "dev": "eth0", "prio": 0}
    listing: list[dict[str, Any]] = [{"chain": {**base, "policy": "accept"}}]
    listing.append({"rule": {"family": "netdev", "table": "fw", "chain": "in", "handle": 2, "expr": [dport(4143), DROP]}})
    assert outcome(packet_filter.decided(nft_listing.chains(listing, PEER4))) == DROPPED
    elsewhere = replace(PEER4, interface="eth1")
    assert outcome(packet_filter.decided(nft_listing.chains(listing, elsewhere))) == PASSES


def test_published_ports() -> None:
    rule = {
        "family": "ip",
        "table": "nat",
        "chain": "DOCKER",
        "handle": 1,
        "expr": [dport(8000), {"dnat": {"addr": "172.17.0.2"}}],
    }
    assert nft_listing.published([{"rule": rule}], frozenset({8000, 9000})) == ((8000,), "")
    text = (
        "*nat\n:DOCKER - [0:0]\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 9000 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT"
    )
    assert iptables_listing.published(text, frozenset({8000, 9000})) == (9000,)
    several = "-A DOCKER -p tcp -m multiport --dports 80,8000:8010 -j DNAT --to-destination 172.17.0.2"
    everything = "-A DOCKER -p tcp -j DNAT --to-destination 172.17.0.2"
    assert iptables_listing.published(f"{several}\n{everything}", frozenset({80, 8000, 9000})) == (80, 8000)
