"""What the controller's connection to a machine finds, with real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from controller.dial_back import connect
from harness.check_problems import INBOUND_UNREACHED
from harness.messages import Reach, Reached
from harness.values import parse_address
from tests.controller_support import TRUST_DOMAIN, Authority
from tests.unit.controller_world import FACE

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOOPBACK = parse_address("127.0.0.1")
NAME = "face-1.faces.external.cluster.local"


@contextlib.asynccontextmanager
async def served(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while True:
            writer.write(b"\x16\x03\x03\x40\x00" + 16384 * b"\0")
            await writer.drain()


def proxy(files: tuple[str, str], anchors: str) -> ssl.SSLContext:
    """As a proxy has it: it wants a certificate of its peer too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    context.load_verify_locations(anchors)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def tried(serve: Serve, context: ssl.SSLContext | None, authority: Authority, name: str = NAME) -> Reach:
    async def main() -> Reach:
        async with served(serve, context) as port:
            return await connect(LOOPBACK, port, name, FACE, Path(authority.anchors).read_text())

    return asyncio.run(main())


def test_the_machine_proves_its_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    found = tried(closing, proxy(authority.issue("face", str(FACE)), authority.anchors), authority)
    assert (found.outcome, found.message, found.source) == (Reached.CONNECTED, "", LOOPBACK)


def test_another_name_is_told(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    other = f"spiffe://{TRUST_DOMAIN}/smiley"
    found = tried(closing, proxy(authority.issue("smiley", other), authority.anchors), authority)
    assert found.outcome is Reached.WRONG_NAME and found.message == f"what answers is {other}, not {FACE}"
    found = tried(closing, proxy(authority.issue("named", dns=(NAME,)), authority.anchors), authority)
    assert found.outcome is Reached.WRONG_NAME and "without a SPIFFE ID" in found.message
    found = tried(closing, proxy(stranger.issue("face", str(FACE)), stranger.anchors), authority)
    assert found.outcome is Reached.UNTRUSTED and found.message.startswith("what answers is not this machine's proxy: ")


@pytest.mark.parametrize(
    ("begins", "ends", "state", "hint"), [(-120, -60, "has expired", "not renewed"), (60, 120, "is not valid yet", "ahead of")]
)
def test_a_certificate_out_of_its_time_is_told_as_such(begins: int, ends: int, state: str, hint: str, tmp_path: Path) -> None:
    """It is the machine's own: nothing else has its address."""
    authority = Authority(tmp_path)
    found = tried(closing, proxy(authority.issue("old", str(FACE), begins=begins, ends=ends), authority.anchors), authority)
    assert found.outcome is Reached.UNTRUSTED
    assert found.message == f"the certificate of this machine's proxy {state} by the controller's clock"
    assert hint in INBOUND_UNREACHED.narrowed(found.message, port=4143).advice


async def ending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65536)
    writer.close()


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def saying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example.com ESMTP\r\n")


@pytest.mark.parametrize(
    ("serve", "came"),
    [
        (ending, "it closed the connection"),
        (closing, "connection reset|it closed the connection"),
        (resetting, "connection reset"),
        (saying, "wrong version number"),
        (endless, "no answer within 3 s"),
    ],
)
def test_what_is_no_proxy(serve: Serve, came: str, tmp_path: Path) -> None:
    found = tried(serve, None, Authority(tmp_path))
    assert found.outcome is Reached.NO_TLS and found.source == LOOPBACK
    began, _, told = found.message.partition(f"{NAME}: ")
    assert began == "connected, but no TLS handshake with the proxy of "
    assert re.search(came, told, re.IGNORECASE), told


def test_a_controller_that_can_open_no_socket_says_so(tmp_path: Path) -> None:
    anchors = Path(Authority(tmp_path).anchors).read_text()

    async def main() -> Reach:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            return await connect(LOOPBACK, 4143, NAME, FACE, anchors)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    found = asyncio.run(main())
    assert (found.outcome, found.message) == (Reached.NO_WAY, "Too many open files")


def test_nobody_listens(tmp_path: Path) -> None:
    async def main() -> Reach:
        async with served(closing) as port:
            pass
        return await connect(LOOPBACK, port, NAME, FACE, Path(Authority(tmp_path).anchors).read_text())

    found = asyncio.run(main())
    assert (found.outcome, found.message) == (Reached.REFUSED, "connection refused")


def test_a_name_that_no_server_can_have(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = proxy(authority.issue("face", str(FACE)), authority.anchors)
    assert tried(closing, context, authority, 300 * "x").outcome is Reached.NO_TLS
