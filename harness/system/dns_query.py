"""One DNS question to one server by UDP (RFC 1035): getaddrinfo tells neither which server fails, nor SRV records (RFC 2782)."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from harness import dns_text
from harness.system import came_back, files
from harness.values import IPAddress

PORT = 53
_HEADER = struct.Struct(">6H")
_RECURSION = 0x0100


class Kind(enum.Enum):
    A = 1
    AAAA = 28
    SRV = 33


@dataclass(frozen=True, slots=True)
class Answer:
    """`records`: how many of the kind that was asked for, `addresses`: what they say, of A and AAAA.

    `code`: the server's (0 no error, 3 no such name); None: no answer, and `error` says why.
    """

    code: int | None
    records: int = 0
    addresses: tuple[IPAddress, ...] = ()
    error: str = ""


def name_servers(resolv_conf: Path = Path("/etc/resolv.conf")) -> tuple[IPAddress, ...]:
    """The first three, which are what the resolver uses (resolv.conf(5)); loopback where there are none."""
    found = []
    for word in dns_text.servers(files.text(resolv_conf) or "")[: dns_text.MAX_SERVERS]:
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_address(word.partition("%")[0]))
    return tuple(found) or (ipaddress.ip_address("127.0.0.1"),)


async def ask(server: IPAddress, name: str, kind: Kind, seconds: float, port: int = PORT) -> Answer:
    """Never raises; asks twice, since a datagram may be lost."""
    number = int.from_bytes(os.urandom(2), "big")
    labels = [label.encode("ascii", "replace") for label in name.rstrip(".").split(".")]
    if any(not 1 <= len(label) <= 63 for label in labels):
        return Answer(3)
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack(">2H", kind.value, 1)
    query = _HEADER.pack(number, _RECURSION, 1, 0, 0, 0) + question
    family = socket.AF_INET if server.version == 4 else socket.AF_INET6
    loop = asyncio.get_running_loop()
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as udp:
            udp.connect((str(server), port))
            for _ in range(2):
                try:
                    await loop.sock_sendall(udp, query)
                    async with asyncio.timeout(seconds / 2):
                        while True:
                            data = await loop.sock_recv(udp, 4096)
                            if data[:2] == query[:2] and len(data) >= _HEADER.size:
                                return read(data, kind)
                except TimeoutError:
                    continue
    except OSError as error:
        return Answer(None, error=came_back.words(error))
    return Answer(None, error=f"no answer within {seconds:g} s")


def read(data: bytes, kind: Kind) -> Answer:
    """An answer that cannot be read counts as the server's failure (2)."""
    try:
        _, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
        at = _HEADER.size
        for _ in range(questions):
            at = _skip_name(data, at) + 4
        records = []
        for _ in range(answers):
            at = _skip_name(data, at)
            found, _, _, length = struct.unpack_from(">2HIH", data, at)
            if found == kind.value:
                records.append(data[at + 10 : at + 10 + length])
            at += 10 + length
        addresses = () if kind is Kind.SRV else tuple(ipaddress.ip_address(record) for record in records)
    except (struct.error, IndexError, ValueError):
        return Answer(2)
    return Answer(flags & 0x0F, len(records), addresses)


def _skip_name(data: bytes, at: int) -> int:
    while (length := data[at]) != 0:
        if length & 0xC0:
            return at + 2
        at += 1 + length
    return at + 1
