"""Probes against real listeners: one that answers, one that refuses, one that says nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from harness.messages import Exec, Header, HttpGet, Probe, TcpSocket
from harness.system.probe_call import Checker

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answering(status: str) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        body = b"seen" if b"x-probe: yes" in request.lower() else b"-"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def check(serve: Serve, times: int = 1, timeout: float = 0.3) -> list[str | None]:
    async def run() -> list[str | None]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        checker = Checker()
        http_get = HttpGet(port, path="/ready", http_headers=(Header("X-Probe", "yes"),))
        probe = Probe(timeout_seconds=timeout, http_get=http_get)
        found = [await checker.check(probe) for _ in range(times)]
        server.close()
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "302 Found", "399 X"])
def test_statuses_that_pass(status: str) -> None:
    assert check(answering(status)) == [None]


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "503 Service Unavailable"])
def test_statuses_that_fail(status: str) -> None:
    assert check(answering(status)) == [f"GET /ready answered {status[:3]}"]


def test_one_that_says_nothing_fails_each_time_and_ends_nothing_else() -> None:
    assert check(silent, times=3) == ["no answer within 0.3 s"] * 3


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    refused = asyncio.run(Checker().check(Probe(tcp_socket=TcpSocket(port))))
    assert refused is not None
    assert "Connect call failed" in refused
    assert asyncio.run(Checker().check(Probe(http_get=HttpGet(port)))) is not None


def test_tcp_passes_when_a_connection_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert asyncio.run(Checker().check(Probe(tcp_socket=TcpSocket(listener.getsockname()[1])))) is None


def test_a_kind_that_this_version_does_not_run_is_said() -> None:
    assert asyncio.run(Checker().check(Probe(exec_=Exec("check")))) == "this version runs no probes of this kind"
