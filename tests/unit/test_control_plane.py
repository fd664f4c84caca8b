"""The two connections to the controller, when calls overlap and one of them fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from harness.decode import encode
from harness.errors import TemporaryError
from harness.specs import Target
from harness.system import control_plane
from harness.system.control_plane import ControlPlane
from harness.values import HostPort
from tests import builders

TARGET = Target(HostPort("controller", 8081), "controller", "")
SVID = builders.svid()
REQUEST = {"group": "face"}


def open_to(connection: control_plane._Connection, port: int) -> None:
    """Without TLS, which is not what is tried here."""
    connection._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)
    connection._used = (TARGET, SVID)


def answer() -> bytes:
    body = json.dumps(encode(builders.registration())).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_a_call_goes_on_when_one_before_it_ends_and_the_held_one_fails() -> None:
    """A machine whose address has changed: the registration from the old one is cancelled, and the held call breaks."""

    async def main() -> None:
        begun: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writers.append(writer)
            await begun.put(writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        plane = ControlPlane()
        open_to(plane._short, server.sockets[0].getsockname()[1])
        open_to(plane._held, 1)  # refused

        def call() -> asyncio.Task[Any]:
            return asyncio.create_task(plane._short.call(TARGET, SVID, "POST", "/v1/workloads", body=REQUEST))

        first = call()
        await begun.get()
        second = call()
        writer = await begun.get()
        first.cancel()
        await asyncio.wait([first])
        with pytest.raises(TemporaryError):
            await plane.watch(TARGET, SVID, builders.registration(), "secret")
        writer.write(answer())
        assert (await second).is_success
        with pytest.raises(TemporaryError):
            await plane.watch(TARGET, SVID, builders.registration(), "secret")
        assert plane._short._client is None, "with nothing under way it is replaced"
        await plane.close()
        for writer in writers:
            writer.close()
        server.close()

    asyncio.run(main())
