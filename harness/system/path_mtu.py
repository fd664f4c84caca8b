"""Whether packets as large as the interface allows get to a peer: ICMP echoes that may not be split, a small and a large one."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass

from harness.values import IPAddress

_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE, _IP_MTU = 10, 3, 14  # linux/in.h; PROBE: do not split, whatever the kernel believes
_HEADERS = 28  # IPv4 and ICMP
_SMALL, _REPLY = 64, b"\0\0"


@dataclass(frozen=True, slots=True)
class Path_:
    """`small`: whether a small echo was answered; if not, nothing is known (`unknown`: why). `large`: one of `mtu` bytes."""

    peer: IPAddress
    mtu: int = 0
    small: bool = False
    large: bool = False
    unknown: str = "nobody has looked"
    denied: bool = False
    """It is unknown because this process may not send an echo."""

    @property
    def narrow(self) -> bool:
        return self.small and not self.large


async def look(peer: IPAddress, seconds: float) -> Path_:
    """Never raises."""
    if peer.version != 4:
        return Path_(peer, unknown="only IPv4 is looked at")
    try:
        mtu = _known_mtu(peer)
        small, large = await asyncio.gather(_echo(peer, _SMALL, seconds), _echo(peer, mtu - _HEADERS, seconds))
        if small and not large and (told := _known_mtu(peer)) < mtu:  # a router has said how much passes: so TCP knows it too
            mtu, large = told, await _echo(peer, told - _HEADERS, seconds)
    except PermissionError as error:
        return Path_(peer, unknown=f"an ICMP echo to {peer} cannot be sent: {error.strerror}", denied=True)
    except OSError as error:
        return Path_(peer, unknown=f"an ICMP echo to {peer} cannot be sent: {error.strerror}")
    return Path_(peer, mtu, small, large, "" if small else f"{peer} answers no ICMP echo within {seconds:g} s")


def _known_mtu(peer: IPAddress) -> int:
    """Of the path, as far as the kernel knows: its interface's, unless a router on the way has said less."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as udp:
        udp.connect((str(peer), 9))
        return udp.getsockopt(socket.IPPROTO_IP, _IP_MTU)


async def _echo(peer: IPAddress, size: int, seconds: float) -> bool:
    """Of so many bytes after the ICMP header."""
    number = os.urandom(4)
    body = struct.pack(">BBH4s", 8, 0, 0, number) + bytes(max(0, size))
    packet = body[:2] + struct.pack(">H", _checksum(body)) + body[4:]
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as raw:
        raw.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        raw.connect((str(peer), 0))
        try:
            async with asyncio.timeout(seconds):
                await loop.sock_sendall(raw, packet)
                while True:
                    data = await loop.sock_recv(raw, 65536)
                    start = (data[0] & 0x0F) * 4
                    if data[start : start + 2] == _REPLY and data[start + 4 : start + 8] == number:
                        return True
        except (TimeoutError, OSError):
            return False


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])) + (data[-1] << 8 if len(data) & 1 else 0)
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
