"""Which firewall backend is taken, on the real kernel, and what is said when there is none."""

from __future__ import annotations

import asyncio

import pytest

from harness.rules import rules_for
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_backend import Choice, detect
from harness.system.redirect_table import BackendKind
from tests import redirect_support as support
from tests.contract.redirect_network import network, observe, replace  # noqa: F401 — a fixture
from tests.redirect_support import sh, spec

pytestmark = support.needs_root
NAT_RULE = "-t nat -A OUTPUT -p tcp --dport 9 -j REDIRECT --to-ports 10"


@pytest.mark.parametrize(
    ("prepare", "choice", "chosen", "reason"),
    [
        ("true", Choice.AUTO, BackendKind.NFTABLES, "the legacy nat tables are empty"),
        (f"iptables-legacy {NAT_RULE}", Choice.AUTO, BackendKind.IPTABLES, "only the legacy nat tables are in use"),
        (f"ip6tables-legacy {NAT_RULE}", Choice.AUTO, BackendKind.IPTABLES, "only the legacy nat tables are in use"),
        ("iptables-legacy -t nat -L", Choice.AUTO, BackendKind.NFTABLES, "the legacy nat tables are empty"),
        (f"iptables-nft {NAT_RULE}", Choice.AUTO, BackendKind.NFTABLES, "table ip nat in use"),
        (f"iptables-nft {NAT_RULE}; iptables-legacy {NAT_RULE}", Choice.AUTO, BackendKind.NFTABLES, "both in use"),
        (f"iptables-legacy {NAT_RULE}", Choice.NFTABLES, BackendKind.NFTABLES, "chosen by redirect.backend"),
        ("true", Choice.IPTABLES, BackendKind.IPTABLES, "chosen by redirect.backend"),
    ],
)
def test_detection(prepare: str, choice: Choice, chosen: BackendKind, reason: str) -> None:
    sh(prepare)
    detected = detect(choice)
    assert detected.backend.kind is chosen
    assert detected.other.kind is not chosen
    assert reason in detected.reason


def test_asking_makes_no_legacy_table() -> None:
    detect()
    observe(Iptables())
    assert sh("cat /proc/thread-self/net/ip_tables_names /proc/thread-self/net/ip6_tables_names") == ""
    assert Nftables().other_nat_tables() == ()


def test_what_was_seen_belongs_to_what_was_there() -> None:
    """An edit is undone in the midst of a look, which then finds nothing wrong; when the same edit comes back it must be seen."""
    backend, rules = Iptables(), rules_for(spec())
    edit = "iptables-legacy -t nat -{} MESHEXP_OUTBOUND -j ACCEPT"
    replace(backend, rules)

    async def check() -> None:
        for _ in range(4):
            sh(edit.format("A"))
            undo = asyncio.to_thread(sh, "sleep 0.02; " + edit.format("D"))
            await asyncio.gather(backend.observe(), undo)
            sh(edit.format("A"))
            assert (await backend.observe()).strange
            sh(edit.format("D"))
            assert not (await backend.observe()).strange

    asyncio.run(check())
