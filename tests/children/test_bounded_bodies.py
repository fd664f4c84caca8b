"""What answers over HTTP on this machine, or to it, may send bytes without an end, slowly, or packed: nothing of it is held."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from harness.errors import UnavailableError
from harness.probe import HttpGet, Probe
from harness.specs import Check
from harness.system import bodies, oci_registry, proxy_admin
from harness.system.probe_call import Checker
from harness.system.proxy_admin import LoopbackAdmin

T = TypeVar("T")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
EXPIRY = b"control_identity_cert_expiration_timestamp_seconds"
MOST_HELD = 8 << 20


def answering(body: bytes, head: bytes = b"") -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        length = f"Content-Length: {len(body)}\r\n".encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + length + head + b"\r\n" + body)
        writer.close()

    return serve


def endless(line: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        try:
            while True:
                writer.write(line * (65536 // len(line)))
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    return serve


def against(serve: Serve, ask: Callable[[int], Coroutine[Any, Any, T]]) -> T:
    """What `ask` makes of the server at that port, and no more memory than it may take."""

    async def run() -> T:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            return await ask(server.sockets[0].getsockname()[1])
        finally:
            server.close()

    tracemalloc.start()
    try:
        found = asyncio.run(run())
        assert tracemalloc.get_traced_memory()[1] < MOST_HELD
        return found
    finally:
        tracemalloc.stop()


async def expiry(port: int) -> float:
    return await LoopbackAdmin().certificate_expiry(port)


async def probed(port: int) -> str | None:
    return await Checker().check(Check(Probe(timeout_seconds=10.0, http_get=HttpGet(port, host="127.0.0.1"))))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (EXPIRY + b" 1.5e9\n", 1.5e9),
        (b"# HELP\n" + EXPIRY + b'{a="b"} 7', 7.0),
        (b"x" * 200_000 + b"\n" + EXPIRY + b" 7\n", 7.0),
        (EXPIRY + b" 1.2.3.4\n", 0.0),
        (EXPIRY + b" 1e999\n", proxy_admin._LATEST),
        (EXPIRY + b" ++..EE\n", 0.0),
        (EXPIRY + b"{" + b"\n" * 1000, 0.0),
        (b"\xff\x00" * 1000, 0.0),
        (b"", 0.0),
    ],
)
def test_any_metrics_of_a_proxy_are_a_time_or_none(body: bytes, found: float) -> None:
    assert against(answering(body), expiry) == found


@pytest.mark.parametrize("line", [b"x", b"\n", b'requests_total{a="b"} 1\n'], ids=["one line", "no lines", "metrics"])
def test_metrics_without_an_end_are_not_held(line: bytes) -> None:
    assert against(endless(line), expiry) == 0.0


def test_a_ready_answer_has_no_body_that_counts() -> None:
    async def ready(port: int) -> bool:
        return await LoopbackAdmin().says_ready(port)

    assert against(endless(b"x"), ready)


def test_a_packed_answer_to_a_probe_stays_packed() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    assert against(answering(bomb, b"Content-Encoding: gzip\r\n"), probed) is None
    assert against(endless(b"x"), probed) is None


def test_an_answer_that_is_kept_is_refused_when_it_is_too_large() -> None:
    with pytest.raises(UnavailableError, match="the answer has more than 10 bytes"):
        bodies.whole_blocking(iter([b"12345", b"678901"]), 10, "the answer")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[" * 100_000, "answers without a token"),
        (b'{"token": "a\\r\\nX-Other: b"}', "answers without a token"),
        (b" " * (oci_registry.MOST_TOKEN_BYTES + 1), "token has more than 1048576 bytes"),
    ],
    ids=["nested", "more than a word", "too large"],
)
def test_a_registrys_token_is_bounded(body: bytes, reason: str) -> None:
    async def fetch(port: int) -> None:
        registry = oci_registry.Registry(oci_registry.parse(f"127.0.0.1:{port}/a/b:c"), insecure=False)
        with registry, pytest.raises(UnavailableError, match=reason):
            await asyncio.to_thread(registry._fetch_token, f'Bearer realm="http://127.0.0.1:{port}/token"')

    against(answering(body), fetch)
