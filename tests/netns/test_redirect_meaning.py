"""Random specs and random packets: the kernel, with either backend's rules, does exactly what the records say."""

from __future__ import annotations

import asyncio
import ipaddress
import select
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.packets import Packet, target
from harness.rules import Family, Hook, RedirectSpec, Rules, rules_for
from harness.system import nfnetlink, probe_packet
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_table import Backend
from harness.values import IPAddress
from tests import redirect_support as support

pytestmark = support.needs_root

KINDS: dict[str, tuple[Callable[[], Backend], int]] = {"nftables": (Nftables, 60), "iptables": (Iptables, 8)}
PACKETS = 12


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    with support.machine():
        # Keeps connection tracking on when a spec leads to no rules at all.
        support.sh(
            "nft 'add table inet on; add chain inet on c { type filter hook input priority 0; }'",
            "nft add rule inet on c ct state new",
        )
        yield request.param


def _near(draw: st.DrawFn, wanted: RedirectSpec, family: Family) -> tuple[str, int]:
    """An address and a port at the edge of what the spec names, where mistakes live."""
    named = (*wanted.outbound_networks, *wanted.ignore_subnets, *wanted.ignore_destinations)
    networks = [n for n in named if n.version == family.value]
    ranges = (*wanted.inbound_ports, *wanted.ignore_inbound_ports, *wanted.ignore_outbound_ports)
    edges = [int(edge) + step for n in networks for edge in (n.network_address, n.broadcast_address) for step in (-1, 0, 1)]
    kind, bits = (ipaddress.IPv4Address, 32) if family is Family.IPV4 else (ipaddress.IPv6Address, 128)
    usable = [a for a in (kind(edge) for edge in edges if 0 <= edge < 2**bits) if _sendable(a)]
    address = draw(st.sampled_from([*usable, ipaddress.ip_address(support.MESH[family])]))
    port_edges = [edge + step for r in ranges for edge in (r.first, r.last) for step in (-1, 0, 1)]
    port = draw(st.sampled_from([p for p in port_edges if 0 < p < 65536] or [80]))
    return str(address), port


def _sendable(address: IPAddress) -> bool:
    """Not one that routing itself refuses or treats apart."""
    apart = address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local or address.is_reserved
    own_link = any(address in network for network in support.networks("0.0.0.0/8", "10.77.0.0/24", "fd77::/64", "::/8"))
    return not apart and not own_link


@st.composite
def packets(draw: st.DrawFn, wanted: RedirectSpec) -> Packet:
    family, hook = draw(support.families), draw(st.sampled_from(Hook))
    far, port = _near(draw, wanted, family)
    near = ipaddress.ip_address(support.NEAR[family])
    if hook is Hook.OUTBOUND:
        uid = draw(st.sampled_from([0, wanted.proxy_uid, 2105]))
        return Packet(hook, near, ipaddress.ip_address(far), port, "eth0", uid)
    return Packet(hook, probe_packet.OUTSIDE[family.value], near, port, probe_packet.OUTSIDE_NAME)


def kernel(packet: Packet, source_port: int, listener: socket.socket, outside: probe_packet.Outside) -> int | None:
    """The port to which the kernel redirected it, None where it left it alone."""
    if packet.hook is Hook.OUTBOUND:
        probe_packet.send_from_here(packet.source, source_port, packet.destination, packet.port, packet.uid)
    else:
        outside.send(source_port, packet.destination, packet.port)
    while select.select([listener], [], [], 2.0)[0]:
        for seen in nfnetlink.connections(listener.recv(nfnetlink.RECEIVE_BYTES)):
            if (seen.source, seen.source_port) == (packet.source, source_port):
                assert (seen.destination, seen.destination_port) == (packet.destination, packet.port)
                untouched = (seen.answers_from, seen.answers_from_port) == (packet.destination, packet.port)
                return None if untouched else seen.answers_from_port
    raise AssertionError(f"the kernel tracked no {packet}")


def test_the_kernel_does_what_the_records_say(kind: str) -> None:
    backend, examples = KINDS[kind][0](), KINDS[kind][1]
    port = iter(range(1024, 60000))
    outcomes: dict[bool, int] = {True: 0, False: 0}

    @settings(
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )
    @given(support.specs, st.data())
    def check(wanted: RedirectSpec, data: st.DataObject) -> None:
        rules: Rules = rules_for(wanted)
        asyncio.run(backend.replace(rules))
        outside = probe_packet.Outside()
        try:
            with nfnetlink.connection_events() as listener:
                for _ in range(PACKETS):
                    packet = data.draw(packets(wanted))
                    expected = target(rules, packet)
                    assert kernel(packet, next(port), listener, outside) == expected, packet
                    outcomes[expected is None] += 1
        finally:
            outside.close()

    check()
    print(outcomes)
    assert kind == "iptables" or min(outcomes.values()) > 10, "both kinds of packets must have been tried"
