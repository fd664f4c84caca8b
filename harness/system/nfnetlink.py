"""What the kernel's netfilter announces: changes of nftables, and new connections with their NAT. Raw netlink, no library."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.system import files
from harness.values import IPAddress

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_GROUP_CONNTRACK_NEW, _GROUP_NFTABLES = 1, 7
_SUBSYS_CONNTRACK, _SUBSYS_NFTABLES = 1, 10
_NEWGEN = 15
_EVENTS = Path("/proc/sys/net/netfilter/nf_conntrack_events")
_HEADER = struct.Struct("=IHHII")
_GENMSG = 4
_ATTRIBUTE = struct.Struct("=HH")
_NESTED_MASK = 0x3FFF

RECEIVE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Change:
    """One nftables transaction that touched our table, and who did it (as the kernel names the process)."""

    process: str
    pid: int

    def __str__(self) -> str:
        return f"the table was changed by {self.process or 'an unknown process'} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection as its first packet asked for it, and where NAT sent it."""

    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    answers_from: IPAddress
    answers_from_port: int


def nftables_events() -> socket.socket:
    return _listen(_GROUP_NFTABLES)


def connection_events() -> socket.socket:
    return _listen(_GROUP_CONNTRACK_NEW)


def announces_connections() -> bool:
    """False where an administrator has turned that off, in the calling thread's network namespace."""
    return files.read_line(_EVENTS) != "0"


def open_socket() -> socket.socket:
    """Raises OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)


def _listen(group: int) -> socket.socket:
    """A non-blocking socket in the calling thread's network namespace. Raises OSError."""
    listener = open_socket()
    try:
        listener.setblocking(False)
        listener.bind((0, 0))
        listener.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        listener.close()
        raise
    return listener


class TableWatch:
    """Finds the transactions that touch one table in the stream of nftables messages."""

    def __init__(self, table: str) -> None:
        self._table = table.encode() + b"\0"
        self._touched = False

    def feed(self, data: bytes) -> Iterator[Change]:
        """A transaction's own messages come first, then one that names the process."""
        for kind, body in _messages(data, _SUBSYS_NFTABLES):
            attributes = dict(_attributes(body))
            if kind != _NEWGEN:
                self._touched = self._touched or attributes.get(1) == self._table
            elif self._touched:
                self._touched = False
                pid = int.from_bytes(attributes.get(2, b""), "big")
                yield Change(attributes.get(3, b"").rstrip(b"\0").decode(errors="replace"), pid)


def connections(data: bytes) -> Iterator[Connection]:
    """The TCP connections that `data` from `connection_events` announces."""
    for kind, body in _messages(data, _SUBSYS_CONNTRACK):
        if kind != 0:
            continue
        attributes = dict(_attributes(body))
        original, reply = (_tuple(attributes.get(number, b"")) for number in (1, 2))
        if original and reply:
            yield Connection(*original, *reply[:2])


def _messages(data: bytes, subsystem: int) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        if kind >> 8 == subsystem:
            yield kind & 0xFF, data[offset + _HEADER.size + _GENMSG : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NESTED_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def _tuple(data: bytes) -> tuple[IPAddress, int, IPAddress, int] | None:
    parts = dict(_attributes(data))
    addresses, protocol = dict(_attributes(parts.get(1, b""))), dict(_attributes(parts.get(2, b"")))
    source, destination = addresses.get(1, addresses.get(3)), addresses.get(2, addresses.get(4))
    if source is None or destination is None or protocol.get(1) != bytes([socket.IPPROTO_TCP]):
        return None
    if {len(source), len(destination)} - {4, 16}:
        return None  # of no version of IP
    ports = [int.from_bytes(protocol.get(number, b""), "big") for number in (2, 3)]
    return ipaddress.ip_address(source), ports[0], ipaddress.ip_address(destination), ports[1]
