"""Whether the cluster's names are there: what is made of the answers of real servers, the machine's own and the cluster's."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from harness import problems
from harness.reconcilers import dns_answers
from harness.reconcilers.dns_own import Subject
from harness.system import dns_query
from harness.system.dns_query import Kind
from harness.values import HostPort

LOOPBACK = "127.0.0.1"
NAME = "kubernetes.default.svc.cluster.local"
SILENT = -1
ASKED = f"{LOOPBACK} was asked for {NAME}"


@dataclass(slots=True)
class Server:
    """Says the same to each question: `code`, and of A the address. `asked`: for which names."""

    code: int
    address: str = ""
    asked: set[str] = field(default_factory=set)

    def answer(self, udp: socket.socket) -> None:
        data, peer = udp.recvfrom(512)
        name, (kind, _) = _name(data[12:-4]), struct.unpack(">2H", data[-4:])
        self.asked.add(name)
        if self.code == SILENT:
            return
        record = b""
        if self.address and kind == Kind.A.value:
            record = struct.pack(">3HIH", 0xC00C, kind, 1, 5, 4) + ipaddress.ip_address(self.address).packed
        header = struct.pack(">6H", int.from_bytes(data[:2], "big"), 0x8180 | self.code, 1, bool(record), 0, 0)
        udp.sendto(header + data[12:] + record, peer)


def _name(labels: bytes) -> str:
    words = []
    while labels[0]:
        words.append(labels[1 : 1 + labels[0]].decode())
        labels = labels[1 + labels[0] :]
    return ".".join(words)


@contextlib.asynccontextmanager
async def served(server: Server) -> AsyncIterator[int]:
    """At which port."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((LOOPBACK, 0))
        loop.add_reader(udp, server.answer, udp)
        try:
            yield udp.getsockname()[1]
        finally:
            loop.remove_reader(udp)


async def _unanswered(own: Server, cluster: Server, servers: tuple[str, ...] = (LOOPBACK,)) -> str:
    async with served(own) as port, served(cluster) as clusters:
        return await dns_answers.unanswered(Subject("cluster.local", (HostPort(LOOPBACK, clusters),), servers), port)


def unanswered(own: Server, cluster: Server, servers: tuple[str, ...] = (LOOPBACK,)) -> str:
    return asyncio.run(_unanswered(own, cluster, servers))


def hint(fault: str) -> str:
    return problems.DNS_UNANSWERED.found("asking", fault, name=NAME, host=LOOPBACK).hint()


def test_an_address_is_an_answer() -> None:
    """Also where there is none of the other family, and whatever the cluster's servers would say."""
    own = Server(0, "10.96.0.1")
    assert unanswered(own, Server(SILENT)) == ""
    assert own.asked == {NAME}, "the Service that every cluster has"


@pytest.mark.parametrize(
    ("code", "said"),
    [(0, "that it has no address"), (3, "that there is no such name"), (5, "that it refuses"), (9, "the code 9")],
)
@pytest.mark.parametrize("cluster", [0, 3, 5])
def test_servers_or_a_domain_of_something_else_are_no_answer(code: int, said: str, cluster: int) -> None:
    """The machine's server says what the cluster's said to it: the settings are wrong, and the hint names them."""
    fault = unanswered(Server(code), Server(cluster))
    assert fault == f"{ASKED}, and says {said}; the cluster's servers have no address for it either"
    assert "dns.servers and dns.domain" in hint(fault)


def test_a_server_between_that_keeps_the_name_back() -> None:
    fault = unanswered(Server(3), Server(0, "10.96.0.1"))
    assert fault == f"{ASKED}, and says that there is no such name; the cluster's servers have an address for it"
    assert "resolvectl query" in hint(fault)


@pytest.mark.parametrize("code", [2, 3])
def test_silence_of_the_clusters_servers_is_no_answer(code: int) -> None:
    fault = unanswered(Server(code), Server(SILENT))
    assert fault.endswith("; the cluster's servers do not answer")
    assert "ip route get" in hint(fault)


def test_silence_of_the_machines_server() -> None:
    assert unanswered(Server(SILENT), Server(0, "10.96.0.1")) == f"{ASKED}: no answer within 3 s"


def test_a_resolv_conf_without_a_server_means_loopback() -> None:
    own = Server(0, "10.96.0.1")
    assert unanswered(own, Server(3), servers=()) == ""
    assert own.asked == {NAME}


def test_what_is_no_address_is_not_asked() -> None:
    own = Server(0, "10.96.0.1")
    assert unanswered(own, Server(3), servers=("dns.example",)) == "dns.example in resolv.conf is no address"
    assert own.asked == set()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">6H", 7, 0x8180, 65535, 65535, 0, 0) + bytes(4084),
        struct.pack(">6H", 7, 0x8180, 65535, 65535, 0, 0) + b"\xc0\x0c" * 2042,
        struct.pack(">6H", 7, 0x8180, 0, 65535, 0, 0) + b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\0" * 340,
        struct.pack(">6H", 7, 0x8180, 0, 1, 0, 0) + b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x05abcde",
        b"\xff" * 4096,
    ],
    ids=["more questions than bytes", "names that point to themselves", "more answers than bytes", "a long address", "noise"],
)
def test_an_answer_that_nobody_can_read_is_the_servers_failure(data: bytes) -> None:
    assert dns_query.read(data, Kind.A) == dns_query.Answer(2)
