"""Real bytes through the rules: each direction, exclusion, family and backend, and the original destination checked."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from harness.rules import Family, Inbound, Outbound, RedirectSpec, rules_for
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_table import Backend
from tests import redirect_support as support
from tests.redirect_support import ELSEWHERE, FAR, MESH, NEAR, Arrival, Peer, connect, listening, networks, ports, sh, spec

pytestmark = support.needs_root

KINDS: dict[str, Callable[[], Backend]] = {"nftables": Nftables, "iptables": Iptables}
USER = 2105
Apply = Callable[[RedirectSpec], None]


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """One machine for all tests: applications on 22, 25, 80, 8080 and 8081 at both ends, a stand-in for the proxy at ours."""
    with support.machine() as peer, contextlib.ExitStack() as stack:
        stack.enter_context(listening(22, 25, 80, 8080, 8081, peer=peer))
        stack.enter_context(listening(22, 25, 80, 8080, 8081))
        stack.enter_context(listening(4140, 4143, uid=support.PROXY_UID))
        yield peer


@pytest.fixture(params=list(KINDS))
def apply(request: pytest.FixtureRequest, peer: Peer) -> Iterator[Apply]:
    backend = KINDS[request.param]()
    yield lambda wanted: asyncio.run(backend.replace(rules_for(wanted)))
    asyncio.run(backend.replace(()))


@pytest.fixture(params=list(Family), ids=lambda family: f"ipv{family.value}")
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


def untouched(address: str, port: int) -> Arrival:
    return Arrival(port, (address, port))


def test_without_rules_everything_arrives_where_it_was_sent(peer: Peer, family: Family) -> None:
    assert connect(MESH[family], 80, uid=USER) == untouched(MESH[family], 80)
    assert connect(NEAR[family], 8080, peer=peer) == untouched(NEAR[family], 8080)


def test_outbound_to_the_mesh_and_nowhere_else(apply: Apply, peer: Peer, family: Family) -> None:
    apply(spec())
    assert connect(MESH[family], 80, uid=USER) == Arrival(4140, (MESH[family], 80))
    assert connect(MESH[family], 80) == Arrival(4140, (MESH[family], 80)), "root's connections go through the proxy too"
    assert connect(ELSEWHERE[family], 80, uid=USER) == untouched(ELSEWHERE[family], 80)
    assert connect(MESH[family], 80, uid=support.PROXY_UID) == untouched(MESH[family], 80)


def test_outbound_all(apply: Apply, peer: Peer, family: Family) -> None:
    apply(spec(outbound=Outbound.ALL, ignore_outbound_ports=ports("25", "100-200")))
    assert connect(ELSEWHERE[family], 80, uid=USER) == Arrival(4140, (ELSEWHERE[family], 80))
    assert connect(ELSEWHERE[family], 25, uid=USER) == untouched(ELSEWHERE[family], 25)
    assert connect(ELSEWHERE[family], 80, uid=support.PROXY_UID) == untouched(ELSEWHERE[family], 80)
    assert connect(NEAR[family], 80, uid=USER) == untouched(NEAR[family], 80), "its own address is reached over lo"
    assert connect("127.0.0.1" if family is Family.IPV4 else "::1", 80, uid=USER).port == 80


def test_ignored_subnets_as_destination_and_as_source(apply: Apply, peer: Peer, family: Family) -> None:
    apply(spec(outbound=Outbound.ALL, ignore_subnets=networks("10.99.0.0/16", "fd99::/16")))
    assert connect(ELSEWHERE[family], 80, uid=USER) == untouched(ELSEWHERE[family], 80)
    assert connect(MESH[family], 80, uid=USER) == Arrival(4140, (MESH[family], 80))
    assert connect(NEAR[family], 8080, peer=peer, source=ELSEWHERE[family]) == untouched(NEAR[family], 8080)
    assert connect(NEAR[family], 8080, peer=peer, source=FAR[family]) == Arrival(4143, (NEAR[family], 8080))


def test_ignored_interfaces(apply: Apply, peer: Peer, family: Family) -> None:
    for name in "eth0", "et*":
        apply(spec(ignore_interfaces=(name,)))
        assert connect(MESH[family], 80, uid=USER) == untouched(MESH[family], 80)
        assert connect(NEAR[family], 8080, peer=peer) == untouched(NEAR[family], 8080)
    apply(spec(ignore_interfaces=("eth1", "eth")))
    assert connect(MESH[family], 80, uid=USER) == Arrival(4140, (MESH[family], 80))


def test_inbound_ports_and_no_others(apply: Apply, peer: Peer, family: Family) -> None:
    apply(spec())
    assert connect(NEAR[family], 8080, peer=peer) == Arrival(4143, (NEAR[family], 8080))
    assert connect(NEAR[family], 8081, peer=peer) == untouched(NEAR[family], 8081)
    assert connect(NEAR[family], 22, peer=peer) == untouched(NEAR[family], 22)


def test_inbound_all_but_the_ignored_ports(apply: Apply, peer: Peer, family: Family) -> None:
    apply(spec(inbound=Inbound.ALL, ignore_inbound_ports=ports("22", "24-26", "8081")))
    assert connect(NEAR[family], 80, peer=peer) == Arrival(4143, (NEAR[family], 80))
    for port in 22, 25, 8081:
        assert connect(NEAR[family], port, peer=peer) == untouched(NEAR[family], port)


def test_a_port_both_listed_and_ignored_is_ignored(apply: Apply, peer: Peer, family: Family) -> None:
    apply(spec(inbound_ports=ports("20-30"), ignore_inbound_ports=ports("22")))
    assert connect(NEAR[family], 22, peer=peer) == untouched(NEAR[family], 22)
    assert connect(NEAR[family], 25, peer=peer) == Arrival(4143, (NEAR[family], 25))


def test_without_ipv6(apply: Apply, peer: Peer) -> None:
    apply(spec(ipv6=False))
    assert connect(MESH[Family.IPV4], 80, uid=USER).port == 4140
    assert connect(MESH[Family.IPV6], 80, uid=USER) == untouched(MESH[Family.IPV6], 80)
    assert connect(NEAR[Family.IPV6], 8080, peer=peer) == untouched(NEAR[Family.IPV6], 8080)


def test_forwarded_traffic_is_untouched(apply: Apply, peer: Peer, family: Family) -> None:
    """A container behind this machine, on a bridge as Docker makes it, talks to the mesh, both ways: never redirected."""
    inner = {Family.IPV4: "172.30.0.2", Family.IPV6: "fd30::2"}
    container = Peer(peer.name + "c")
    sh(f"ip netns add {container.name}")
    try:
        sh(
            f"ip link add docker0 type bridge; ip link add v0 type veth peer name eth0 netns {container.name}",
            "ip link set v0 master docker0; ip link set v0 up; ip link set docker0 up",
            "ip addr add 172.30.0.1/24 dev docker0; ip addr add fd30::1/64 dev docker0 nodad",
            "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
        )
        container.sh(
            "ip link set lo up", "ip addr add 172.30.0.2/24 dev eth0", "ip addr add fd30::2/64 dev eth0 nodad",
            "ip link set eth0 up", "ip route add default via 172.30.0.1", "ip -6 route add default via fd30::1",
        )  # fmt: skip
        peer.sh("ip route replace 172.30.0.0/24 via 10.77.0.1", "ip -6 route replace fd30::/64 via fd77::1")
        apply(spec(outbound=Outbound.ALL, inbound=Inbound.ALL))
        assert connect(MESH[family], 80, peer=container) == untouched(MESH[family], 80)
        with listening(8080, peer=container):
            assert connect(inner[family], 8080, peer=peer) == untouched(inner[family], 8080)
    finally:
        sh(f"ip netns del {container.name}; ip link del docker0")


@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
def test_connections_that_exist_stay_as_they_are(apply: Apply, peer: Peer, family: Family, tracked: bool) -> None:
    """What exists when rules come or go goes on untouched, even when connection tracking first hears of it in midstream.

    An inbound one is the SSH session of whoever runs the harness.
    """
    with _long_lived(peer, NEAR[family], 8081) as inbound, _long_lived(None, MESH[family], 8080) as outbound:
        if not tracked:
            subprocess.run(["conntrack", "-F"], check=True, capture_output=True)
        apply(spec(outbound=Outbound.ALL, inbound=Inbound.ALL))
        assert inbound() == untouched(NEAR[family], 8081)
        assert outbound() == untouched(MESH[family], 8080)


def test_redirected_connections_outlive_a_change_of_the_rules(apply: Apply, peer: Peer, family: Family) -> None:
    """Also one after which they would not be redirected any more."""
    apply(spec())
    with _long_lived(peer, NEAR[family], 8080) as inbound, _long_lived(None, MESH[family], 80) as outbound:
        apply(spec(inbound_ports=ports("8081"), outbound_networks=networks("10.43.0.0/16", "fd43::/16")))
        assert connect(MESH[family], 80, uid=USER) == untouched(MESH[family], 80)
        assert inbound() == Arrival(4143, (NEAR[family], 8080))
        assert outbound() == Arrival(4140, (MESH[family], 80))


def test_redirected_connections_end_with_the_last_rule(apply: Apply, peer: Peer, family: Family) -> None:
    """Without any rule that needs it the kernel turns connection tracking off, and with it the NAT of what is open.

    Hence the daemon drains first; where another program's rules keep tracking on, they go on instead.
    """
    apply(spec())
    with _long_lived(peer, NEAR[family], 8080) as inbound:
        apply(spec(outbound=Outbound.OFF, inbound=Inbound.OFF))
        time.sleep(0.5)  # the kernel frees nftables rules, and with them its tracking, a little later
        with pytest.raises(ConnectionError):
            inbound()
    sh(
        "nft 'add table inet theirs; add chain inet theirs c { type filter hook input priority 0; }'",
        "nft add rule inet theirs c ct state new",
    )
    apply(spec())
    with _long_lived(peer, NEAR[family], 8080) as inbound, _long_lived(None, MESH[family], 80) as outbound:
        apply(spec(outbound=Outbound.OFF, inbound=Inbound.OFF))
        assert inbound() == Arrival(4143, (NEAR[family], 8080))
        assert outbound() == Arrival(4140, (MESH[family], 80))
    sh("nft delete table inet theirs")


@contextlib.contextmanager
def _long_lived(peer: Peer | None, address: str, port: int) -> Iterator[Callable[[], Arrival]]:
    """A connection that is open before the body runs, and sends its first bytes when asked to."""
    enter = ["ip", "netns", "exec", peer.name] if peer else ["setpriv", f"--reuid={USER}", "--clear-groups"]
    command = [*enter, "/usr/bin/python3", str(support.ECHO), "hold", address, str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin and process.stdout

    def ask() -> Arrival:
        output, _ = process.communicate(b"go\n", timeout=10)
        if process.returncode:
            raise ConnectionError(f"exit code {process.returncode}")
        return support.arrival(output)

    try:
        assert process.stdout.readline() == b"connected\n"
        yield ask
    finally:
        process.kill()
        process.communicate()


def test_udp_is_never_redirected(apply: Apply, peer: Peer) -> None:
    apply(spec(outbound=Outbound.ALL, inbound=Inbound.ALL))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        near.bind((NEAR[Family.IPV4], 5353))
        near.settimeout(5)
        send = "import socket; socket.socket(2, 2).sendto(b'x', ('10.77.0.1', 5353))"
        subprocess.run(["ip", "netns", "exec", peer.name, "/usr/bin/python3", "-c", send], check=True)
        assert near.recv(10) == b"x"
