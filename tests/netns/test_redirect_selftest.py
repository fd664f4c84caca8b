"""The redirect's self-test on the real kernel: what it passes, what it fails, what it cannot tell, and that it leaves nothing."""

from __future__ import annotations

import asyncio
import select

import pytest

from harness.rules import rules_for
from harness.system.nftables import Nftables
from harness.system.redirect_selftest import Outcome, self_test
from tests import redirect_support as support
from tests import waiting
from tests.redirect_support import (
    KINDS,
    Peer,
    kind_fixture,  # noqa: F401
    peer_fixture,  # noqa: F401
    sh,
    spec,
)

pytestmark = support.needs_root


@pytest.mark.parametrize("serving", [True, False], ids=["proxy-serving", "proxy-down"])
def test_the_self_test_passes_and_the_proxy_notices_nothing(kind: str, serving: bool) -> None:
    asyncio.run(KINDS[kind]().replace(rules_for(spec())))
    servers = [__import__("socket").create_server(("", port)) for port in (4140, 4143)] if serving else []
    report = self_test(rules_for(spec()))
    assert {check.name.partition(" port")[0]: check.outcome for check in report.checks} == {
        name: Outcome.PASSED
        for family in (4, 6)
        for name in (f"outbound IPv{family}", f"outbound IPv{family} of the proxy itself", f"inbound IPv{family}")
    }
    assert any("port 22 untouched" in check.name for check in report.checks)
    assert select.select(servers, [], [], 0.1)[0] == [], "something was accepted"
    for server in servers:
        server.close()


def test_what_was_announced_counts_also_when_nobody_ran_in_time_to_read_it(peer: Peer) -> None:
    """On a busy machine the time may be over before the first look. The rules are right all the same."""
    asyncio.run(Nftables().replace(rules_for(spec())))
    outcomes = {check.name: check.outcome for check in self_test(rules_for(spec()), wait_seconds=0.0).checks}
    assert {outcomes[f"outbound IPv{family}"] for family in (4, 6)} == {Outcome.PASSED}


@pytest.mark.parametrize(
    ("sabotage", "failing"),
    [
        ("nft insert rule inet meshexp outbound ip daddr 10.42.0.0/16 return", "outbound IPv4"),
        ("nft insert rule inet meshexp outbound ip6 daddr fd42::/16 tcp flags syn redirect to :4144", "outbound IPv6"),
        (
            "nft insert rule inet meshexp outbound ip daddr 10.42.0.0/16 tcp flags syn redirect to :4140",
            "outbound IPv4 of the proxy",
        ),
        ("nft insert rule inet meshexp inbound tcp dport 8080 return", "inbound IPv4"),
        (
            "nft insert rule inet meshexp inbound meta nfproto ipv6 tcp flags syn redirect to :4143",
            "inbound IPv6 port 22 untouched",
        ),
    ],
)
def test_the_self_test_sees_what_goes_astray(peer: Peer, sabotage: str, failing: str) -> None:
    asyncio.run(Nftables().replace(rules_for(spec())))
    sh(sabotage)
    report = self_test(rules_for(spec()))
    failed = [check.name for check in report.having(Outcome.FAILED)]
    # What our rules do not redirect to the mesh is not even sent: the guard drops it.
    unsent = [check.name for check in report.having(Outcome.UNVERIFIED) if "nothing could be sent" in check.message]
    assert any(name.startswith(failing) for name in (*failed, *unsent))


def test_a_kernel_that_announces_nothing_leaves_the_rules_unverified(kind: str) -> None:
    """An administrator may have turned that off. Such a machine joins all the same."""
    asyncio.run(KINDS[kind]().replace(rules_for(spec())))
    sh("echo 0 > /proc/sys/net/netfilter/nf_conntrack_events")
    (check,) = self_test(rules_for(spec())).checks
    assert check.outcome is Outcome.UNVERIFIED
    assert "net.netfilter.nf_conntrack_events is 0" in check.message


def test_a_firewall_in_the_way_inbound_is_unverified_not_failed(peer: Peer) -> None:
    asyncio.run(Nftables().replace(rules_for(spec())))
    sh(
        "nft add table inet fw",
        "nft 'add chain inet fw in { type filter hook input priority 0; }'",
        "nft add rule inet fw in tcp dport 4143 drop",
    )
    report = self_test(rules_for(spec()))
    assert report.having(Outcome.FAILED) == ()
    assert [check.name for check in report.having(Outcome.UNVERIFIED)] == ["inbound IPv4", "inbound IPv6"]


def test_the_self_test_leaves_nothing(peer: Peer) -> None:
    asyncio.run(Nftables().replace(rules_for(spec())))
    dump = "ip addr; ip -4 route show table all; ip -6 route show table all; ip rule; nft list ruleset"
    waiting.wait(lambda: "tentative" not in sh("ip addr"))  # the kernel adds the address's routes only then
    before = sh(dump)
    self_test(rules_for(spec()))
    assert _without_times(sh(dump)) == _without_times(before)


def _without_times(text: str) -> list[str]:
    return [line for line in text.splitlines() if "valid_lft" not in line]
