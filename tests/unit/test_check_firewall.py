"""What is read out of a firewall's rules: a drop is claimed when it is sure, and never otherwise."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from harness.check import iptables_listing, nft_listing, packet_filter
from harness.check.packet_filter import Packet

PACKET = Packet(4143, (ipaddress.ip_network("10.42.0.0/16"), ipaddress.ip_network("10.43.0.0/16")))


def iptables(*lines: str, policy: str = "ACCEPT") -> str | None:
    text = "\n".join(["*filter", f":INPUT {policy} [0:0]", ":OURS - [0:0]", *lines, "COMMIT"])
    return packet_filter.dropped_by(iptables_listing.chains(text, PACKET, "iptables filter"))


@pytest.mark.parametrize(
    ("lines", "policy", "dropped"),
    [
        ((), "ACCEPT", False),
        ((), "DROP", True),
        (("-A INPUT -p tcp -m tcp --dport 4143 -j ACCEPT",), "DROP", False),
        (("-A INPUT -p tcp -m multiport --dports 22,4143 -j ACCEPT",), "DROP", False),
        (("-A INPUT -p tcp -m tcp --dport 4000:5000 -j DROP",), "ACCEPT", True),
        (("-A INPUT -p udp -m udp --dport 4143 -j DROP",), "ACCEPT", False),
        (("-A INPUT -i lo -j ACCEPT", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"), "DROP", True),
        (("-A INPUT ! -i lo -p tcp -j REJECT --reject-with tcp-reset",), "ACCEPT", True),
        (("-A INPUT -j OURS", "-A OURS -p tcp -m tcp --dport 4143 -j ACCEPT"), "DROP", False),
        (("-A INPUT -j OURS", "-A OURS -p tcp -m tcp --dport 4143 -j RETURN", "-A OURS -j ACCEPT"), "DROP", True),
        (("-A INPUT -g OURS", "-A INPUT -j ACCEPT"), "DROP", True),
        (("-A INPUT -s 192.168.0.0/16 -j ACCEPT",), "DROP", True),
        (("-A INPUT -s 10.0.0.0/8 -j ACCEPT",), "DROP", False),
        (("-A INPUT -s 10.42.0.0/16 -j DROP",), "ACCEPT", False),  # some peers only: not claimed
        (("-A INPUT -i eth1 -j ACCEPT",), "DROP", False),  # peers may come that way
        (("-A INPUT -m set --match-set peers src -j ACCEPT",), "DROP", False),
        (("-A INPUT -p tcp -m limit --limit 5/min -j LOG --log-prefix \"x y \"",), "ACCEPT", False),
    ],
)  # fmt: skip
def test_legacy_rules(lines: tuple[str, ...], policy: str, dropped: bool) -> None:
    assert (iptables(*lines, policy=policy) is not None) is dropped


def dport(value: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": value}}


def nft(*rules: list[dict[str, Any]], policy: str = "accept", table: str = "fw") -> str | None:
    base = {"family": "inet", "table": table, "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": policy}
    listing: list[dict[str, Any]] = [{"chain": base}, {"chain": {"family": "inet", "table": table, "name": "more"}}]
    listing += [{"rule": {"family": "inet", "table": table, "chain": "in", "handle": 9, "expr": expr}} for expr in rules]
    listing += [
        {"rule": {"family": "inet", "table": table, "chain": "more", "handle": 8, "expr": [dport(4143), {"accept": None}]}}
    ]
    return packet_filter.dropped_by(nft_listing.chains(listing, PACKET))


STATE = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
DNAT = {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}
IN_SET = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@peers"}}
DROP: dict[str, Any] = {"drop": None}
JUMP = {"jump": {"target": "more"}}


@pytest.mark.parametrize(
    ("rules", "policy", "dropped"),
    [
        ([], "accept", False),
        ([], "drop", True),
        ([[dport({"set": [22, {"range": [4000, 4200]}]}), {"accept": None}]], "drop", False),
        ([[dport(22, "!="), {"drop": None}]], "accept", True),
        ([[{"counter": {"packets": 0, "bytes": 0}}, {"reject": {"type": "icmpx"}}]], "accept", True),
        ([[STATE, {"accept": None}], [DNAT, {"accept": None}], [{"reject": None}]], "accept", True),  # firewalld's
        ([[IN_SET, {"accept": None}]], "drop", False),
        ([[IN_SET, {"drop": None}]], "accept", False),
        ([[JUMP]], "drop", False),
        ([[IN_SET, JUMP]], "drop", False),
        ([[{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["new", JUMP], ["invalid", DROP]]}}}]], "drop", False),
        ([[{"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": "@verdicts"}}]], "drop", False),
        ([[{"xt": {"type": "match", "name": "string"}}, {"drop": None}]], "accept", False),
    ],
)  # fmt: skip
def test_nftables_rules(rules: list[list[dict[str, Any]]], policy: str, dropped: bool) -> None:
    assert (nft(*rules, policy=policy) is not None) is dropped


def test_our_own_table_is_not_asked_and_the_place_is_named() -> None:
    assert nft(policy="drop", table="meshexp") is None
    assert nft(policy="drop", table="meshexp-api") is None, "another workload's of this machine"
    assert nft(policy="drop", table="meshexpress") is not None
    assert nft([dport(4143), {"drop": None}]) == "inet fw in: drop by rule 9 of in"
    assert "policy is drop" in str(nft(policy="drop"))


def test_published_ports() -> None:
    rule = {
        "family": "ip",
        "table": "nat",
        "chain": "DOCKER",
        "handle": 1,
        "expr": [dport(8000), {"dnat": {"addr": "172.17.0.2"}}],
    }
    assert nft_listing.published([{"rule": rule}], frozenset({8000, 9000})) == (8000,)
    text = (
        "*nat\n:DOCKER - [0:0]\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 9000 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT"
    )
    assert iptables_listing.published(text, frozenset({8000, 9000})) == (9000,)
