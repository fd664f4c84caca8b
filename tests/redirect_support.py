"""What the redirect's tests share: rule sets, a network namespace of their own for the calling thread, and real traffic."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from harness.rules import Family, Hook, Inbound, Outbound, RedirectSpec, Rule, Rules, merge_networks, merge_ports
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_table import Backend
from harness.values import IPNetwork, PortRange, is_interface

PROXY_UID = 2102
KINDS: dict[str, Callable[[], Backend]] = {"nftables": Nftables, "iptables": Iptables}
FLUSH = {"nftables": "nft flush ruleset", "iptables": "iptables-legacy -t nat -F; ip6tables-legacy -t nat -F"}
"""What others do to the rules, ours among them."""
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

patient = settings(max_examples=50)
"""For tests whose examples take long to make on a busy machine."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root and network namespaces")


def networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def ports(*texts: str) -> tuple[PortRange, ...]:
    pairs = [text.partition("-") for text in texts]
    return tuple(PortRange(int(first), int(last or first)) for first, _, last in pairs)


def spec(**changes: object) -> RedirectSpec:
    defaults: dict[str, object] = {
        "proxy_uid": PROXY_UID,
        "outbound_networks": networks("10.42.0.0/16", "fd42::/16"),
        "inbound_ports": ports("8080"),
        "ignore_inbound_ports": ports("22", "4190-4191", "4567-4568"),
    }
    return RedirectSpec(**(defaults | changes))  # type: ignore[arg-type]


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """The calling thread, and whatever it starts, in an empty network namespace with loopback up; gone afterwards."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            sh("ip link set lo up")
            yield
        finally:
            _libc.setns(before, _CLONE_NEWNET)
    finally:
        os.close(before)


def sh(*commands: str, text: str = "") -> str:
    return subprocess.run(["sh", "-ec", "\n".join(commands)], input=text, check=True, stdout=subprocess.PIPE, text=True).stdout


@dataclass(frozen=True, slots=True)
class Peer:
    """The other machine: a namespace on the far end of a veth pair, with the mesh's networks behind it."""

    name: str

    def sh(self, *commands: str) -> str:
        return sh(*(f"ip netns exec {self.name} {command}" for command in commands))


NEAR = {Family.IPV4: "10.77.0.1", Family.IPV6: "fd77::1"}
FAR = {Family.IPV4: "10.77.0.2", Family.IPV6: "fd77::2"}
MESH = {Family.IPV4: "10.42.0.5", Family.IPV6: "fd42::5"}
ELSEWHERE = {Family.IPV4: "10.99.0.5", Family.IPV6: "fd99::5"}


@contextlib.contextmanager
def machine() -> Iterator[Peer]:
    """This thread becomes a machine with one neighbour, in both families."""
    peer = Peer(f"mxC-{secrets.token_hex(4)}")
    with own_network():
        sh(f"ip netns add {peer.name}")
        try:
            sh(
                f"ip link add eth0 type veth peer name eth0 netns {peer.name}",
                "ip addr add 10.77.0.1/24 dev eth0; ip addr add fd77::1/64 dev eth0 nodad; ip link set eth0 up",
            )
            peer.sh(
                "ip link set lo up", "ip addr add 10.77.0.2/24 dev eth0", "ip addr add fd77::2/64 dev eth0 nodad",
                "ip addr add 10.42.0.5/32 dev lo", "ip addr add fd42::5/128 dev lo nodad",
                "ip addr add 10.99.0.5/32 dev lo", "ip addr add fd99::5/128 dev lo nodad", "ip link set eth0 up",
            )  # fmt: skip
            sh("ip route add default via 10.77.0.2; ip -6 route add default via fd77::2")
            yield peer
        finally:
            sh(f"ip netns del {peer.name}")


@pytest.fixture(name="peer")
def peer_fixture() -> Iterator[Peer]:
    with machine() as peer:
        yield peer


@pytest.fixture(name="kind", params=list(KINDS))
def kind_fixture(request: pytest.FixtureRequest, peer: Peer) -> str:
    return str(request.param)


ECHO = Path(__file__).parent / "children" / "redirect_echo.py"


@contextlib.contextmanager
def listening(*numbers: int, peer: Peer | None = None, uid: int = 0) -> Iterator[None]:
    """Listeners that tell each client on which port it arrived and what its original destination was."""
    enter = ["ip", "netns", "exec", peer.name] if peer else []
    command = [*enter, "/usr/bin/python3", str(ECHO), "listen", *map(str, numbers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, user=uid if uid else None)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a connection arrived: the listener's port, and the destination that the client had asked for."""

    port: int
    original: tuple[str, int]


def connect(address: str, port: int, *, peer: Peer | None = None, uid: int = 0, source: str = "") -> Arrival:
    """Sends bytes and reads the answer, as `uid`, from here or from the peer. Raises CalledProcessError when nothing answers."""
    enter = ["ip", "netns", "exec", peer.name] if peer else []
    drop = ["setpriv", f"--reuid={uid}", "--clear-groups"] if uid else []
    command = [*enter, *drop, "/usr/bin/python3", str(ECHO), "connect", address, str(port), source]
    return arrival(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=10).stdout)


def arrival(output: bytes) -> Arrival:
    answer = json.loads(output)
    return Arrival(answer["port"], (answer["original"][0], answer["original"][1]))


def _network(family: Family) -> st.SearchStrategy[IPNetwork]:
    bits = 32 if family is Family.IPV4 else 128
    kind = ipaddress.IPv4Network if family is Family.IPV4 else ipaddress.IPv6Network
    return st.builds(
        lambda number, length: kind((number >> (bits - length) << (bits - length), length)),
        st.integers(0, 2**bits - 1), st.integers(1, bits),
    )  # fmt: skip


families = st.sampled_from(Family)
port_ranges = st.builds(
    lambda first, length: PortRange(first, min(65535, first + length)), st.integers(1, 65535), st.integers(0, 300) | st.just(0)
)
port_lists = st.lists(port_ranges, max_size=20).map(merge_ports)
any_network = families.flatmap(_network) | st.sampled_from(
    networks(
        "10.42.0.0/16", "10.42.0.4/31", "10.42.0.5/32", "10.42.0.6/32", "fd42::/16", "fd42::4/127", "fd42::5/128", "fd43::/16"
    )
)
interfaces = st.sampled_from(("eth1", "eth", "e*", "veth*", "docker0", "br-0a1b2c3d4e5f", "tun.7", "a", "wg0", "xn:1@2_3"))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Any record that a spec could ever lead to, and more."""
    hook, family = draw(st.sampled_from(Hook)), draw(st.none() | families)
    found: tuple[IPNetwork, ...] = ()
    if family is not None:
        listed = merge_networks(draw(st.lists(_network(family), max_size=4)), family)
        found = () if listed and listed[0].prefixlen == 0 else listed
    return Rule(
        name=draw(st.text("abz09-", min_size=1, max_size=12)),
        hook=hook,
        redirect_to=draw(st.none() | st.integers(1, 65535)),
        family=family,
        not_local=hook is Hook.INBOUND and draw(st.booleans()),
        uid=draw(st.none() | st.integers(0, 2**32 - 2)) if hook is Hook.OUTBOUND else None,
        interface=draw(st.just("") | interfaces),
        networks=found,
        ports=draw(st.just(()) | port_lists),
    )


@st.composite
def rule_sets(draw: st.DrawFn) -> Rules:
    """Names are unique within a direction, as rules_for makes them."""
    drawn = draw(st.lists(rules(), min_size=1, max_size=8, unique_by=lambda rule: (rule.hook, rule.name)))
    return tuple(sorted(drawn, key=lambda rule: rule.hook.value))


specs = st.builds(
    RedirectSpec,
    proxy_uid=st.integers(1, 2**32 - 2),
    inbound_port=st.integers(1, 65535),
    outbound_port=st.integers(1, 65535),
    outbound=st.sampled_from(Outbound),
    inbound=st.sampled_from(Inbound),
    outbound_networks=st.lists(any_network, max_size=5).map(tuple),
    inbound_ports=st.lists(port_ranges, max_size=5).map(tuple),
    ignore_inbound_ports=st.lists(port_ranges, max_size=10).map(tuple),
    ignore_outbound_ports=st.lists(port_ranges, max_size=10).map(tuple),
    ignore_subnets=st.lists(any_network, max_size=5).map(tuple),
    ignore_destinations=st.lists(any_network, max_size=3).map(tuple),
    ignore_interfaces=st.lists(interfaces, max_size=3).map(tuple),
    own_links=st.lists(st.tuples(interfaces.filter(is_interface), any_network), max_size=3).map(tuple),
    ipv6=st.booleans(),
)
