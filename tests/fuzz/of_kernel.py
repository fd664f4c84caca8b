"""Listings of the kernel and of its tools: rules, sockets, processes, mounts, events."""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

from harness.check import firewall_facts, iptables_listing, nft_listing
from harness.check.packet_filter import Packet
from harness.errors import HarnessError
from harness.rules import Family
from harness.system import iptables_text, nfnetlink, nftables_text, probe_packet, ssh_daemons, tcp_sockets, xtables
from tests.fuzz.engine import ROOT, Target
from tests.fuzz.of_cluster import of_json
from tests.fuzz.scratch import folder

_RULES = ROOT / "tests/unit/firewall_rules"
_PACKETS = (
    Packet(4143, (ipaddress.ip_network("10.42.0.0/24"),), 4, "eth0", ipaddress.ip_address("10.9.0.2")),
    Packet(8000, (), 6),
)
_OURS = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "meshexp", "handle": 1}},
        {"chain": {"family": "inet", "table": "meshexp", "name": "outbound", "handle": 1, "type": "nat", "hook": "output",
                   "prio": -110, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "meshexp", "chain": "outbound", "handle": 2, "comment": "proxy", "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": 2102}}, {"return": None}]}},
        {"rule": {"family": "inet", "table": "meshexp", "chain": "outbound", "handle": 3, "comment": "mesh", "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}},
                       "right": {"set": [{"prefix": {"addr": "10.42.0.0", "len": 24}}, {"range": ["10.0.0.1", "10.0.0.3"]}]}}},
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"range": [80, 90]}}},
            {"match": {"op": "==", "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}},
                       ["fin", "syn", "rst", "ack"]]}, "right": "syn"}},
            {"redirect": {"port": 4140}}]}},
    ]
}  # fmt: skip
_OTHERS = {
    "nftables": [
        {"table": {"family": "ip", "name": "filter", "handle": 1}},
        {"chain": {"family": "ip", "table": "filter", "name": "in", "handle": 1, "type": "filter", "hook": "input", "prio": 0,
                   "policy": "drop", "dev": ["eth0"]}},
        {"rule": {"family": "ip", "table": "filter", "chain": "in", "handle": 2, "expr": [
            {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "new"]}},
            {"match": {"op": "==", "left": {"fib": {"result": "type", "flags": ["daddr"]}}, "right": "local"}},
            {"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}},
                      "data": {"set": [[80, {"accept": None}], [{"range": [1, 9]}, {"jump": {"target": "in"}}]]}}}]}},
        {"rule": {"family": "ip", "table": "filter", "chain": "in", "handle": 3, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 8000}},
            {"dnat": {"addr": "10.0.0.1", "port": 80}}]}},
    ]
}  # fmt: skip
_CHAINS = {
    "MESHEXP_OUTBOUND": [
        {"owner": {"uid-owner": "2102"}, "comment": {"comment": "meshexp/proxy"}, "target": "RETURN"},
        {"protocol": "tcp", "tcp": {"tcp-flags": ["FIN,SYN,RST,ACK", "SYN"]}, "dst": "10.42.0.0/24",
         "multiport": {"dports": "80,90:99"}, "comment": {"comment": "meshexp/mesh"},
         "target": {"REDIRECT": {"to-ports": "4140"}}},
    ]
}  # fmt: skip
_TCP = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0000 100 0 0 10 0\n"
)
_PROC = {
    "comm": b"sshd\n",
    "status": b"Name:\tsshd\nUid:\t0\t0\t0\t0\nNSpid:\t7\n",
    "cgroup": b"0::/system.slice/ssh.service\n",
    "cmdline": b"sshd: /usr/sbin/sshd -D -p 2222 -o Port=2200 -f /etc/ssh/x [listener]\0",
}
_MOUNTS = b"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


def _nft(listing: dict[str, Any]) -> None:
    """As `check` reads other firewalls' rules."""
    rules: Any = listing.get("nftables")
    firewall_facts.check_listing(rules)
    nft_listing.of_iptables(rules, "ip")
    nft_listing.published(rules, frozenset({80, 8000}))
    for packet in _PACKETS:
        nft_listing.chains(rules, packet)


def _saved(data: bytes) -> None:
    text = data.decode(errors="replace")
    iptables_listing.published(text, frozenset({80, 8000}))
    for table, own in iptables_listing.tables(text).items():
        for packet in _PACKETS:
            iptables_listing.chains(own, packet, "iptables", table)


def _only(kind: type, read: Callable[[Any], object]) -> Callable[[bytes], object]:
    return of_json(lambda value: read(value) if isinstance(value, kind) else None)


def _diagnosed(data: bytes) -> None:
    for _, body in tcp_sockets._messages(data):
        tcp_sockets._socket(body)


def _announced(data: bytes) -> None:
    list(nfnetlink.connections(data))
    list(nfnetlink.TableWatch("meshexp").feed(data))


def _legacy(data: bytes) -> None:
    for layout in xtables._LAYOUTS.values():
        xtables._without_counters(bytearray(data), layout)


def _proc(name: str) -> Callable[[bytes], object]:
    """A made-up /proc with one process, in which the input is one file's content."""

    def reader(data: bytes) -> None:
        root = folder() / "root"
        own = root / "proc/7"
        if not own.is_dir():
            (own / "fd").mkdir(parents=True)
            (root / "proc/self").mkdir()
            (root / "proc/sys/net/ipv4").mkdir(parents=True)
        for file, content in _PROC.items():
            (own / file).write_bytes(data if file == name else content)
        (root / "proc/self/mountinfo").write_bytes(data if name == "mountinfo" else _MOUNTS)
        ports = b"32768\t60999\n"
        (root / "proc/sys/net/ipv4/ip_local_port_range").write_bytes(data if name == "ports" else ports)
        ssh_daemons.found(root, lambda: ())

    return reader


def _listed(data: bytes) -> None:
    path = folder() / "tcp"
    path.write_bytes(data)
    list(tcp_sockets._listed(path, tcp_sockets.BOTH, 0))


def _netlink(*attributes: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4) for kind, value in attributes)


def _message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def _conntrack() -> bytes:
    addresses = _netlink((1, bytes(4)), (2, b"\x7f\0\0\1"))
    ports = _netlink((1, b"\6"), (2, b"\0\1"), (3, b"\0\2"))
    one = _netlink((1, addresses), (2, ports))
    return _message(1 << 8, bytes(4) + _netlink((1, one), (2, one)))


def _transaction() -> bytes:
    rule = _message(10 << 8 | 6, bytes(4) + _netlink((1, b"meshexp\0")))
    return rule + _message(10 << 8 | 15, bytes(4) + _netlink((1, bytes(4)), (2, b"\0\0\0\7"), (3, b"nft\0")))


_SOCKET = tcp_sockets._MESSAGE.pack(socket.AF_INET, 10, 0, 0, 1, 0, bytes(16), bytes(16), 0, bytes(8), 0, 0, 0, 0, 9)
_DIAGNOSED = _message(20, _SOCKET + _netlink((11, b"\1"), (21, bytes(8))))
_ENTRY = bytes(90) + struct.pack("=H", 168) + bytes(76)
_ROUTE = struct.pack("=IHHIIi", 36, 24, 0, 1, 0, 0) + bytes(16)


def _seeds(pattern: str) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted(_RULES.glob(pattern)))


TARGETS = (
    Target("nft.ours", _only(dict, nftables_text.parse_listing), (json.dumps(_OURS).encode(),), (ValueError,), tree=True),
    Target("nft.others", _only(dict, _nft), (json.dumps(_OTHERS).encode(), *_seeds("*.json")), (ValueError,), tree=True),
    Target(
        "iptables.ours",
        _only(dict, lambda chains: iptables_text.parse(chains, Family.IPV4)),
        (json.dumps(_CHAINS).encode(),),
        (ValueError,),
        tree=True,
    ),
    Target("iptables.save", _saved, _seeds("*.rules")),
    Target("xtables.entries", _legacy, (_ENTRY * 2, bytes(300)), (OSError,)),
    Target("sock_diag", _diagnosed, (_DIAGNOSED * 2,), (OSError,)),
    Target("nfnetlink", _announced, (_conntrack(), _transaction())),
    Target("rtnetlink", lambda data: probe_packet._ends_the_wait(data, b"\1" * 16), (_ROUTE,)),
    Target("proc.tcp", _listed, (_TCP,), (HarnessError,)),
    *(Target(f"proc.{name}", _proc(name), (seed,)) for name, seed in _PROC.items()),
    Target("proc.mountinfo", _proc("mountinfo"), (_MOUNTS,)),
)
