"""Records as text: golden for a reader, and injection-proof. The kernel's opinion is in tests/contract."""

from __future__ import annotations

import json

from hypothesis import given

from harness.rules import Family, Hook, RedirectSpec, differences, for_family, rules_for
from harness.system import iptables_text, nftables_text
from tests import redirect_support as support
from tests.redirect_support import networks, ports, spec, specs

GOLDEN = """\
table inet meshexp
delete table inet meshexp
table inet meshexp {
	chain inbound {
		type nat hook prerouting priority -110; policy accept;
		fib daddr type != local return comment "forwarded"
		iifname "veth*" return comment "interface-veth*"
		tcp dport 22 return comment "ports"
		tcp dport 4190-4191 return comment "ports"
		tcp dport 4567-4568 return comment "ports"
		tcp dport 8080 tcp flags & (fin|syn|rst|ack) == syn redirect to :4143 comment "redirect"
	}
	chain outbound {
		type nat hook output priority -110; policy accept;
		meta skuid 2102 return comment "proxy-user"
		oifname "lo" return comment "loopback"
		oifname "veth*" return comment "interface-veth*"
		ip daddr 10.42.0.0/16 tcp flags & (fin|syn|rst|ack) == syn redirect to :4140 comment "redirect-ipv4"
		ip6 daddr fd42::/16 tcp flags & (fin|syn|rst|ack) == syn redirect to :4140 comment "redirect-ipv6"
	}
	chain guard {
		type filter hook output priority 0; policy accept;
		meta l4proto != tcp return comment "guard-tcp"
		tcp flags & (fin|syn|rst|ack) != syn return comment "guard-begun"
		ct status dnat return comment "guard-redirected"
		meta skuid 2102 return comment "proxy-user"
		oifname "lo" return comment "loopback"
		oifname "veth*" return comment "interface-veth*"
		ip daddr 10.42.0.0/16 drop comment "redirect-ipv4"
		ip6 daddr fd42::/16 drop comment "redirect-ipv6"
	}
}
"""


def test_the_default_rule_set_as_nft_text() -> None:
    assert nftables_text.replace_text(rules_for(spec(ignore_interfaces=("veth*",)))) == GOLDEN


def test_removal_is_two_lines() -> None:
    assert nftables_text.replace_text(()) == "table inet meshexp\ndelete table inet meshexp\n"


def test_a_trial_keeps_the_old_rules_behind_the_gate() -> None:
    old, new = rules_for(spec()), rules_for(spec(proxy_uid=7))
    text = nftables_text.trial_text(new, old, 10.0)
    assert "elements = { tcp timeout 10000ms }" in text
    base = text[text.index("chain outbound {") :]
    assert base.index("@trial goto guard_trial") < base.index("drop")
    assert base.index("@trial goto outbound_trial") < base.index("meta skuid 2102")
    assert "meta skuid 7" not in base


def test_strange_things_in_the_table_are_named() -> None:
    listing = {
        "nftables": [
            {"metainfo": {}},
            {"table": {"family": "inet", "name": "meshexp", "handle": 1}},
            {"map": {"family": "inet", "name": "m", "table": "meshexp"}},
            {"chain": {"name": "inbound", "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}},
            {"chain": {"name": "other"}},
            {"rule": {"chain": "outbound", "handle": 7, "expr": [{"accept": None}]}},
        ]
    }
    state = nftables_text.parse_listing(listing)
    assert state.present
    assert state.rules == ()
    assert [sentence.split(",")[0] for sentence in state.strange] == [
        "not ours: map m",
        "not ours: chain inbound",
        "not ours: chain other",
        "not ours: a rule in chain outbound",
    ]


@support.patient
@given(specs)
def test_iptables_entries_say_the_records(wanted: RedirectSpec) -> None:
    rules = rules_for(wanted)
    found = [rule for family in Family for rule in iptables_text.parse(iptables_text.entries(rules, family), family)[0]]
    assert differences(rules, tuple(found)) == ()


@support.patient
@given(specs)
def test_iptables_entries_survive_json(wanted: RedirectSpec) -> None:
    for family in Family:
        entries = iptables_text.entries(rules_for(wanted), family)
        assert json.loads(json.dumps(entries)) == entries


def test_multiport_takes_fifteen_slots_and_a_range_two() -> None:
    many = ports(*(str(port) for port in range(100, 200, 2)), "300-310", "400-410")
    entries = iptables_text.entries(rules_for(spec(ignore_inbound_ports=many)), Family.IPV4)["MESHEXP_INBOUND"]
    lists = [entry["multiport"]["dports"] for entry in entries if entry["comment"]["comment"] == "meshexp/ports"]
    assert [sum(2 if ":" in word else 1 for word in one.split(",")) for one in lists] == [15, 15, 15, 9]


def test_an_address_in_another_notation_is_the_same_address() -> None:
    rules = rules_for(spec(ignore_subnets=networks("::1e:e91f/128")))
    listed = json.loads(json.dumps(iptables_text.entries(rules, Family.IPV6)).replace("::1e:e91f/128", "::0.30.233.31/128"))
    found, strange = iptables_text.parse(listed, Family.IPV6)
    assert (strange, for_family(rules, Family.IPV6)) == ((), for_family(found, Family.IPV6))


def test_a_family_without_a_redirect_gets_no_chain() -> None:
    rules = rules_for(spec(outbound_networks=networks("10.42.0.0/16"), inbound_ports=()))
    assert for_family(rules, Family.IPV6) == ()
    assert iptables_text.entries(rules, Family.IPV6) == {}


def test_restore_text_takes_away_what_is_there_first() -> None:
    text = iptables_text.restore_text((), [(Family.IPV4, Hook.INBOUND)], [(Family.IPV4, "MESHEXP_INBOUND")])
    assert text.splitlines() == [
        "*nat",
        "-4 -D PREROUTING -p tcp -m comment --comment meshexp/jump -j MESHEXP_INBOUND",
        "-4 -F MESHEXP_INBOUND",
        "-4 -X MESHEXP_INBOUND",
        "COMMIT",
    ]
