"""The TCP sockets of this network namespace, by the kernel's own diagnosis (sock_diag), else by /proc/net/tcp."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UnavailableError
from harness.listeners import Listener
from harness.values import IPAddress, unmapped

ESTABLISHED, LISTEN = 1, 10  # include/net/tcp_states.h
BOTH = (ESTABLISHED, LISTEN)
OPEN = (1, 2, 3, 4, 5, 8, 9, 11)
"""Of a connection that is made, stands or ends: not LISTEN, CLOSE and TIME_WAIT, in which there is nobody who waits."""

# include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _ERROR, _DONE = 4, 20, 2, 3
_DESTROY, _REQUEST_ACK = 21, 0x1 | 0x4
_REQUEST_DUMP = 0x1 | 0x300
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_REQUEST = struct.Struct("=BBBxI48s")
_MESSAGE = struct.Struct("=BBBBHH16s16sI8sIIIII")
_IDENTITY = slice(4, 52)  # ports, addresses, interface and cookie: of one socket
_ONLY_IPV6, _CGROUP_ID = 11, 21
_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Socket:
    """`address`: the local one. `cgroup`: the id of the cgroup in which it was made; None before Linux 5.9, and by /proc.

    `peer`: the remote one, which nobody has while it listens. `only_ipv6`: as far as it is known; by /proc it is not.
    """

    address: IPAddress
    port: int
    state: int
    uid: int
    inode: int
    cgroup: int | None = None
    only_ipv6: bool = False
    peer: IPAddress | None = None


def listening() -> tuple[Listener, ...]:
    """Raises UnavailableError when the kernel does not tell."""
    return tuple(Listener(found.address, found.port, found.only_ipv6) for found in sockets((LISTEN,)))


def listeners(port: int) -> frozenset[int]:
    """The users whose sockets listen on it; empty when nobody does. Raises UnavailableError when the kernel does not tell."""
    return frozenset(found.uid for found in sockets((LISTEN,), port))


def open_connections(port: int) -> int:
    """Established connections to it, of both families."""
    return sum(1 for _ in sockets((ESTABLISHED,), port))


def sockets(states: tuple[int, ...] = BOTH, port: int = 0) -> Iterator[Socket]:
    """Of both families, and on that local port if one is given. Raises UnavailableError when the kernel does not tell."""
    for family, table in ((socket.AF_INET, "/proc/self/net/tcp"), (socket.AF_INET6, "/proc/self/net/tcp6")):
        try:
            found = list(_diagnosed(family, states, port))
        except OSError:
            # A kernel without tcp_diag, or one that loads no modules any more.
            found = list(_listed(Path(table), states, port))
        yield from found


def end_connections(uid: int, addresses: frozenset[IPAddress]) -> int:
    """Those of a user from any of the local addresses; how many. A program that waits for one gets ECONNABORTED.

    Raises UnavailableError when the kernel cannot (no CONFIG_INET_DIAG_DESTROY, or no CAP_NET_ADMIN).
    """
    ended = 0
    try:
        for family in socket.AF_INET, socket.AF_INET6:
            try:
                bodies = list(_bodies(family, OPEN, 0))
            except FileNotFoundError:
                if family == socket.AF_INET:
                    raise  # without tcp_diag the kernel says the same as without IPv6
                continue
            for body in bodies:
                found = _socket(body)
                if found.uid == uid and unmapped(found.address) in addresses:
                    ended += _end(family, body[_IDENTITY])
    except OSError as error:
        raise UnavailableError(f"the kernel ends no connections of others: {error.strerror}") from None
    return ended


def _end(family: int, identity: bytes) -> bool:
    """False when it has ended meanwhile."""
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, identity)
    with contextlib.suppress(FileNotFoundError):
        list(_answers(_DESTROY, _REQUEST_ACK, request))
        return True
    return False


def _diagnosed(family: int, states: tuple[int, ...], port: int) -> Iterator[Socket]:
    return map(_socket, _bodies(family, states, port))


def _bodies(family: int, states: tuple[int, ...], port: int) -> Iterator[bytes]:
    # In a dump the kernel compares only the ports of this identity.
    wanted = sum(1 << state for state in states)
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, wanted, struct.pack("!H", port))
    return _answers(_SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, request)


def _answers(kind_asked: int, flags: int, request: bytes) -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_TIMEOUT_SECONDS)
        netlink.send(_HEADER.pack(_HEADER.size + len(request), kind_asked, flags, 1, 0) + request)
        while True:
            for kind, body in _messages(netlink.recv(1 << 18)):
                if kind not in (_DONE, _ERROR):
                    yield body
                    continue
                # An error of a dump comes in its end.
                number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                if number > 0:
                    raise OSError(number, os.strerror(number))
                return


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, *_ = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size : at + size]
        at += max(_HEADER.size, (size + 3) & ~3)


def _socket(body: bytes) -> Socket:
    """Raises OSError for one that is cut short."""
    if len(body) < _MESSAGE.size:
        raise OSError(errno.EBADMSG, "the kernel's answer about a socket is cut short")
    family, state, _, _, port, _, local, remote, _, _, _, _, _, uid, inode = _MESSAGE.unpack_from(body)
    size = 4 if family == socket.AF_INET else 16
    address = ipaddress.ip_address(local[:size])
    peer = ipaddress.ip_address(remote[:size])
    attributes = dict(_attributes(body))
    cgroup = attributes.get(_CGROUP_ID)
    number = None if cgroup is None else int.from_bytes(cgroup[:8], sys.byteorder)
    only_ipv6 = any(attributes.get(_ONLY_IPV6, b"")[:1])
    return Socket(address, socket.ntohs(port), state, uid, inode, number, only_ipv6, peer)


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, at)
        yield kind, body[at + _ATTRIBUTE.size : at + size]
        at += max(_ATTRIBUTE.size, (size + 3) & ~3)


def _listed(table: Path, states: tuple[int, ...], port: int) -> Iterator[Socket]:
    try:
        lines = table.read_text(encoding="ascii", errors="replace").splitlines()[1:]
    except FileNotFoundError:
        return  # a kernel without IPv6
    except OSError as error:
        raise UnavailableError(f"{table} cannot be read: {error.strerror}") from None
    for line in lines:
        try:
            found = _row(line.split())
        except (ValueError, IndexError, struct.error):
            raise UnavailableError(f"{table} has a line that is none of its own: {line[:60]!r}") from None
        if found.state in states and port in (0, found.port):
            yield found


def _row(fields: list[str]) -> Socket:
    """Raises ValueError, IndexError and struct.error."""
    address, _, own = fields[1].rpartition(":")
    peer = _of_words(fields[2].rpartition(":")[0])
    return Socket(_of_words(address), int(own, 16), int(fields[3], 16), int(fields[7]), int(fields[9]), peer=peer)


def _of_words(text: str) -> IPAddress:
    """The kernel prints an address as numbers of 32 bits, in the machine's own order of bytes."""
    words = (int(text[i : i + 8], 16) for i in range(0, len(text), 8))
    return ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words))
