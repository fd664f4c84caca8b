"""`serve NAME PORT UNREADY` answers with its name; `call HOST RATE` calls it until SIGTERM and prints what came of it.

`call` first prints BEGUN, with its first answer: a busy machine takes seconds to start a program.

Run by the interpreter alone: it imports nothing of this repository.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import signal
import socket
import sys
import time
from pathlib import Path

BEGUN = "begun"
PATIENCE = 15.0
SERVICE_SECONDS = 0.1  # so that under load there are always requests that can be lost


class Answer(asyncio.Protocol):
    """HTTP/1.1 with kept connections. /ready is 503 while the file `unready` is there."""

    def __init__(self, name: str, unready: Path) -> None:
        self._name, self._unready, self._data = name, unready, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, self._data = self._data.partition(b"\r\n\r\n")
            failing = head.split()[1] == b"/ready" and self._unready.exists()
            status = "503 Service Unavailable" if failing else "200 OK"
            text = f"HTTP/1.1 {status}\r\nContent-Length: {len(self._name)}\r\n\r\n{self._name}"
            seconds = 0.0 if head.split()[1] == b"/ready" else SERVICE_SECONDS
            asyncio.get_running_loop().call_later(seconds, self._transport.write, text.encode())


async def serve(name: str, port: str, unready: str) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Answer(name, Path(unready)), "0.0.0.0", int(port))
    await server.serve_forever()


class Caller:
    """Each request on a connection of its own, `rate` a second.

    However long the answers take, until so many are waited for as a second brings. A busy machine answers fewer in a second than
    are asked: then fewer are asked, where else each would wait longer than the one before it, until none is answered in time.
    """

    def __init__(self, host: str) -> None:
        self._host, self._address = host, socket.gethostbyname(host)
        self._failed: list[str] = []
        self._by: collections.Counter[str] = collections.Counter()
        self._requests, self._slowest = 0, 0.0

    async def run(self, rate: float) -> dict[str, object]:
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        calls: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not stopped.is_set():
            if len(calls) < rate:
                call = asyncio.create_task(self._call())
                calls.add(call)
                call.add_done_callback(calls.discard)
            due += 1 / rate
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(stopped.wait(), max(0.0, due - time.monotonic()))
        await asyncio.gather(*calls)
        return {"requests": self._requests, "failed": self._failed, "by": self._by, "slowest": round(self._slowest, 3)}

    async def _call(self) -> None:
        began = time.monotonic()
        self._requests += 1
        try:
            async with asyncio.timeout(PATIENCE):
                await self._exchange()
        except (OSError, EOFError, ValueError) as error:
            self._failed.append(f"{time.time():.3f} after {time.monotonic() - began:.3f} s: {error!r}")
        self._slowest = max(self._slowest, time.monotonic() - began)

    async def _exchange(self) -> None:
        reader, writer = await asyncio.open_connection(self._address, 80)
        try:
            writer.write(f"GET / HTTP/1.1\r\nHost: {self._host}\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            status = head.split()[1].decode() if head else "nothing"
            if status != "200":
                raise ValueError(f"{status} {head.decode(errors='replace')[:300]}")
            if not self._by:
                print(BEGUN, flush=True)
            self._by[body.decode()] += 1
        finally:
            writer.close()


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    if verb == "serve":
        asyncio.run(serve(*words))
    else:
        print(json.dumps(asyncio.run(Caller(words[0]).run(float(words[1])))))
