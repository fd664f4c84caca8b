"""`meshexp-controller reach` at what is no controller: it says what came back, and never more than that."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import pytest

from controller import reach
from harness.errors import TemporaryError
from harness.values import HostPort

GARBAGE = b"HTTP/1.1 400 Bad Request\r\n" * 1000


def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


def write_garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(GARBAGE)


@pytest.mark.parametrize(("answer", "text"), [(close, "the connection was closed (try 1,"), (write_garbage, "wrong version")])
def test_what_is_no_controller(answer: Callable[[asyncio.StreamWriter], None], text: str) -> None:
    async def body() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65536)  # what a socket has not read when it closes, its peer sees as a reset
            answer(writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            address = HostPort(*server.sockets[0].getsockname())
            with pytest.raises(TemporaryError) as caught:
                await reach._reach(address, "a.b.test", ssl.create_default_context(), 0.0, "hint")
        assert text in str(caught.value) and "no answer" not in str(caught.value)

    asyncio.run(body())
