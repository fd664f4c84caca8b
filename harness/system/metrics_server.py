"""Answers GET /metrics, and nothing else. One request a connection, within bounds: it is there for a scrape every few seconds.

By asyncio alone: prometheus_client (Debian's python3-prometheus-client) would keep a second account of what the snapshot has,
a thread, and http.server with all that it imports, some 3 MiB in a daemon that has aiohttp for no other purpose either.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from harness import phrases
from harness.errors import UnavailableError
from harness.system import came_back, listening
from harness.values import HostPort

SECONDS = 5.0
MOST_CONNECTIONS, MOST_BYTES = 8, 8192
MOST_ANSWER_BYTES = 1 << 20
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsServer:
    """`text`: what /metrics says at the moment it is asked."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text
        self._servers: list[asyncio.Server] = []
        self._open = 0
        self.where: HostPort | None = None

    async def listen(self, where: HostPort | None) -> None:
        """There and no longer elsewhere; None: nowhere. Raises UnavailableError."""
        if where == self.where:
            return
        self.close()
        if where is not None:
            for one in await listening.listen(where, "metrics.listen"):
                self._servers.append(await asyncio.start_server(self._serve, sock=one, limit=MOST_BYTES))
        self.where = where

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []
        self.where = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MOST_CONNECTIONS:
                async with asyncio.timeout(SECONDS):
                    writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the caller has gone, was too slow, or speaks something else
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            status, kind, body = "404 Not Found", "text/plain", b"/metrics\n"
        elif method not in (b"GET", b"HEAD"):
            status, kind, body = "405 Method Not Allowed", "text/plain", b"GET\n"
        else:
            status, kind, body = "200 OK", CONTENT_TYPE, self._text().encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return head.encode() + (b"" if method == b"HEAD" else body)


async def ask(where: HostPort, seconds: float) -> str:
    """What any program there answers to GET /metrics, at most MOST_ANSWER_BYTES. Raises UnavailableError."""
    tried = f"GET /metrics at {where}"
    host = where.host
    if where.ip is not None and where.ip.is_unspecified:
        host = "127.0.0.1" if where.ip.version == 4 else "::1"
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, where.port)
            with contextlib.closing(writer):
                writer.write(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                found = b""
                while len(found) < MOST_ANSWER_BYTES and (more := await reader.read(65536)):
                    found += more
    except TimeoutError:
        raise UnavailableError(f"{phrases.NO_ANSWER} within {seconds:g} s", tried=tried) from None
    except OSError as error:
        raise UnavailableError(came_back.words(error), tried=tried) from None
    return found.decode(errors="replace").partition("\r\n\r\n")[2]
