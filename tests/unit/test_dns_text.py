"""resolv.conf in front, and back again to the byte; what dnsmasq is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import dns_text
from harness.specs import DnsSpec
from harness.values import HostPort

SPEC = DnsSpec("cluster.local", (HostPort("10.43.0.10", 53), HostPort("fd00::a", 5353)))
DHCP = """\
# by dhclient
domain example.org
search example.org corp.example.org
nameserver 192.0.2.1
nameserver fe80::1%eth0
options edns0
"""


def test_ours_is_first_and_the_others_follow() -> None:
    assert dns_text.resolv_conf(DHCP, SPEC).splitlines()[1:6] == [
        "nameserver 127.0.0.77", "nameserver 192.0.2.1", "nameserver fe80::1%eth0", "search example.org corp.example.org",
        "options edns0",
    ]  # fmt: skip


def test_no_more_servers_than_glibc_reads() -> None:
    many = "".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 6))
    text = dns_text.resolv_conf(many, SPEC)
    assert dns_text.servers(text) == ("127.0.0.77", "192.0.2.1", "192.0.2.2")
    conf = dns_text.dnsmasq_conf("127.0.0.77", dns_text.servers(many), SPEC)
    assert conf.count("server=192.0.2.") == 5, "dnsmasq asks them all"


def test_search_domains_are_added_and_ndots_is_last() -> None:
    spec = DnsSpec("cluster.local", SPEC.servers, ("faces.svc.cluster.local", "example.org"), 2)
    lines = dns_text.resolv_conf(DHCP, spec).splitlines()
    assert "search example.org corp.example.org faces.svc.cluster.local" in lines
    assert [line for line in lines if line.startswith("options")][-1] == "options ndots:2"


@given(st.text())
def test_taken_out_it_is_as_it_was(text: str) -> None:
    before = dns_text.original(text)
    assert dns_text.original(dns_text.resolv_conf(before, SPEC)) == before


def test_twice_is_once() -> None:
    once = dns_text.resolv_conf(DHCP, SPEC)
    assert dns_text.resolv_conf(dns_text.original(once), SPEC) == once
    assert dns_text.is_ours(once) and not dns_text.is_ours(DHCP)


@pytest.mark.parametrize("text", ["", "search example.org\n", "# nameserver 192.0.2.1\n"])
def test_without_servers_the_resolvers_own_default(text: str) -> None:
    assert dns_text.servers(text) == ("127.0.0.1",)


def test_dnsmasq_asks_the_cluster_for_the_cluster_alone() -> None:
    conf = dns_text.dnsmasq_conf("127.0.0.77", dns_text.servers(DHCP), SPEC).splitlines()
    assert [line for line in conf if line.startswith("server=")] == [
        "server=192.0.2.1", "server=fe80::1@eth0", "server=/cluster.local/10.43.0.10#53", "server=/cluster.local/fd00::a#5353",
    ]  # fmt: skip
