"""One bare SYN, from this machine or as if from outside: enough for NAT to decide, too little for any listener to notice.

The answer to it meets no socket here, so the kernel resets it: no listener ever accepts anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from harness.values import IPAddress

_TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCSIFADDR, _SIOCSIFDSTADDR, _SIOCSIFFLAGS = 0x8916, 0x8918, 0x8914
_IFF_UP = 1
_RTM_NEWADDR, _IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 20, 1, 2, 0x02
_RTM_NEWROUTE, _NLMSG_ERROR, _GROUP_IPV6_ROUTE = 24, 2, 0x400
_WAIT_SECONDS = 0.5
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 0x01, 0x04, 0x400
_NOBODY = 2**32 - 1
"""No uid: setfsuid changes nothing and says what it is."""
_SYN, _RST = 0x02, 0x04
_RTNETLINK = struct.Struct("=IHHIIi")
"""A message's header, and the code that one of kind _NLMSG_ERROR begins with."""

OUTSIDE_NAME = "meshexp-test0"
OUTSIDE = {4: ipaddress.ip_address("192.0.2.2"), 6: ipaddress.ip_address("2001:db8::2")}
"""Where packets from outside claim to come from: documentation addresses (RFC 5737, RFC 3849)."""
NEAR_END = ipaddress.IPv4Address("192.0.2.1"), ipaddress.IPv6Address("2001:db8::1")


def send_from_here(source: IPAddress, source_port: int, destination: IPAddress, port: int, uid: int | None = None) -> None:
    """Sends the SYN as an application of `uid` (default: our own) would. Blocking, at once. Raises OSError."""
    domain = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    with _as_user(uid):
        raw = socket.socket(domain, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP)
    with raw:
        raw.bind((str(source), 0))
        raw.sendto(_segment(source, source_port, destination, port, secrets.randbits(31), _SYN), (str(destination), 0))


@contextlib.contextmanager
def _as_user(uid: int | None) -> Iterator[None]:
    """Sockets made inside belong to `uid` for the rules (the kernel looks at the file system uid, which is this thread's own)."""
    if uid is None:
        yield
        return
    setfsuid = ctypes.CDLL(None).setfsuid
    setfsuid.argtypes, setfsuid.restype = [ctypes.c_uint32], ctypes.c_uint32
    before = setfsuid(uid)
    try:
        if setfsuid(_NOBODY) != uid:
            raise PermissionError(1, "CAP_SETUID is needed to send as the proxy's user")
        yield
    finally:
        setfsuid(before)


class Outside:
    """A tun device that stands for the outside world; it vanishes with its descriptor, also when the process is killed."""

    def __init__(self) -> None:
        """Blocking. Raises OSError: no /dev/net/tun, or no CAP_NET_ADMIN."""
        self._descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            name = OUTSIDE_NAME.encode()
            fcntl.ioctl(self._descriptor, _TUNSETIFF, struct.pack("16sH22x", name, _IFF_TUN | _IFF_NO_PI))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
                for request, address in ((_SIOCSIFADDR, NEAR_END[0]), (_SIOCSIFDSTADDR, OUTSIDE[4])):
                    sockaddr = struct.pack("=HH4s8x", socket.AF_INET, 0, address.packed)
                    fcntl.ioctl(control, request, struct.pack("16s16s8x", name, sockaddr))
                fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, _IFF_UP))
            _add_ipv6_address(socket.if_nametoindex(OUTSIDE_NAME))
        except OSError:
            self.close()
            raise

    def send(self, source_port: int, destination: IPAddress, port: int) -> None:
        """The SYN comes in by the device, from OUTSIDE, then a reset, so that nobody goes on answering. Raises OSError."""
        source, sequence = OUTSIDE[destination.version], secrets.randbits(31)
        for flags in (_SYN, _RST):
            segment = _segment(source, source_port, destination, port, sequence, flags)
            os.write(self._descriptor, _ip_header(source, destination, len(segment)) + segment)
            sequence += 1

    def close(self) -> None:
        os.close(self._descriptor)


def _add_ipv6_address(index: int) -> None:
    """And waits until the kernel delivers to it, which it arranges a little after it has said yes.

    A machine without IPv6 refuses, which nobody needs to know.
    """
    address = NEAR_END[1].packed
    body = struct.pack("=BBBBI", socket.AF_INET6, 126, _IFA_F_NODAD, 0, index)
    body += b"".join(struct.pack("=HH16s", 20, kind, address) for kind in (_IFA_ADDRESS, _IFA_LOCAL))
    header = struct.pack("=IHHII", 16 + len(body), _RTM_NEWADDR, _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, _GROUP_IPV6_ROUTE))
        netlink.settimeout(_WAIT_SECONDS)
        netlink.send(header + body)
        with contextlib.suppress(TimeoutError):
            while not _ends_the_wait(netlink.recv(65536), address):
                pass


def _ends_the_wait(message: bytes, address: bytes) -> bool:
    """The route to the address itself, or a refusal. The kernel sends one message at a time here."""
    if len(message) < _RTNETLINK.size:
        return False
    _, kind, _, _, _, code = _RTNETLINK.unpack_from(message)
    return (kind == _RTM_NEWROUTE and address in message) or (kind == _NLMSG_ERROR and code != 0)


def _segment(source: IPAddress, source_port: int, destination: IPAddress, port: int, sequence: int, flags: int) -> bytes:
    fields = source_port, port, sequence, 0, 5 << 4, flags, 64240
    bare = struct.pack("!HHIIBBHHH", *fields, 0, 0)
    pseudo = source.packed + destination.packed + struct.pack("!HH", socket.IPPROTO_TCP, len(bare))
    return struct.pack("!HHIIBBHHH", *fields, _checksum(pseudo + bare), 0)


def _ip_header(source: IPAddress, destination: IPAddress, payload: int) -> bytes:
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, payload, socket.IPPROTO_TCP, 64) + source.packed + destination.packed
    fields = 0x45, 0, 20 + payload, 0, 0, 64, socket.IPPROTO_TCP
    bare = struct.pack("!BBHHHBBH", *fields, 0) + source.packed + destination.packed
    return struct.pack("!BBHHHBBH", *fields, _checksum(bare)) + source.packed + destination.packed


def _checksum(data: bytes) -> int:
    """RFC 1071; `data` has an even length."""
    total: int = sum(word for (word,) in struct.iter_unpack("!H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
