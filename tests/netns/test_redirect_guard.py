"""nftables: what begins before the rules does not go on in plaintext, and none passes while the rules change."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

from harness.rules import Family, rules_for
from harness.system.nftables import Nftables
from tests import redirect_support as support
from tests.redirect_support import MESH, Peer, listening, networks, peer_fixture, sh, spec  # noqa: F401

pytestmark = support.needs_root


def test_an_attempt_that_began_before_the_rules_does_not_go_on(peer: Peer) -> None:
    """Its first SYN is lost. Connection tracking has decided for it, so that the redirect does not take the second one."""
    backend = Nftables()
    # Others' rules, which make the kernel track connections before ours are there.
    sh("nft add table ip other", "nft 'add chain ip other out { type nat hook output priority -100; }'")
    sh("nft add rule ip other out ip daddr 192.0.2.9 meta l4proto tcp redirect to :9")
    with listening(80, peer=peer), socket.socket() as attempt:
        peer.sh("nft add table inet fw", "nft add chain inet fw in '{ type filter hook input priority 0; policy drop; }'")
        attempt.settimeout(2.5)
        attempt.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            attempt.connect((MESH[Family.IPV4], 80))
        asyncio.run(backend.replace(rules_for(spec(hold=True))))
        peer.sh("nft delete table inet fw")
        time.sleep(2.5)  # the kernel repeats a SYN after 1 s
        with contextlib.suppress(OSError):
            assert attempt.getpeername() is None, "connected past the rules"
    asyncio.run(backend.replace(()))
    with listening(80, peer=peer), socket.create_connection((MESH[Family.IPV4], 80), timeout=5):
        pass  # nothing is left


def test_no_packet_passes_while_the_hold_becomes_the_redirect(peer: Peer) -> None:
    many = networks(*(f"10.{number}.0.0/16" for number in range(20, 60)), "fd42::/16")
    hold, redirect = (rules_for(spec(outbound_networks=many, hold=held)) for held in (True, False))
    backend, stop = Nftables(), threading.Event()
    asyncio.run(backend.replace(hold))
    peer.sh("nft add table inet seen", "nft add chain inet seen in '{ type filter hook prerouting priority -300; }'")
    peer.sh("nft add rule inet seen in ip daddr 10.42.0.5 tcp flags syn counter")

    def call() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                socket.create_connection((MESH[Family.IPV4], 80), timeout=0.05).close()

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for _ in range(100):
        asyncio.run(backend.replace(redirect))
        asyncio.run(backend.replace(hold))
    stop.set()
    for caller in callers:
        caller.join()
    assert "counter packets 0 " in peer.sh("nft list ruleset")
    asyncio.run(backend.replace(()))
