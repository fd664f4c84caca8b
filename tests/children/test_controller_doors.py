"""Connections that cost the controller something before anybody is known: there are only so many, for only so long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from controller import app, connection, door
from controller.rendering import readiness
from harness.messages import Reason, StateReport
from harness.values import HostPort
from tests.children.controller_site import Run, Site, run_fixture  # noqa: F401 — the fixture


async def silent(where: HostPort, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(where.host, where.port, local_addr=(source, 0))


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


@pytest.fixture
def few_handshakes() -> Iterator[None]:
    before = door.MOST, door.MOST_OF_ONE
    door.MOST, door.MOST_OF_ONE = 12, 8
    yield
    door.MOST, door.MOST_OF_ONE = before


@pytest.mark.usefixtures("few_handshakes")
def test_handshakes_that_do_not_end_stand_in_their_own_way(run: Run) -> None:
    async def body(s: Site) -> None:
        first = [await silent(s.controller.address, "127.0.0.2") for _ in range(8)]
        beyond = [await silent(s.controller.address, "127.0.0.2") for _ in range(5)]
        for reader, _ in first[:5]:
            assert await ended(reader)  # more than one source may have
        other = [await silent(s.controller.address, "127.0.0.3") for _ in range(4)]
        await s.join()  # full, and another source has a place all the same: the oldest of the most gave way
        assert await ended(first[5][0])
        for _, writer in (*first, *beyond, *other):
            writer.close()

    run(body)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::"),
        ("2001:db8::ffff:1", "2001:db8::"),
        ("fe80::1%eth0", "fe80::"),
        ("?", "?"),
    ],
)
def test_whom_an_address_counts_for(address: str, source: str) -> None:
    assert door.source_of(address) == source


@pytest.fixture
def narrow_health() -> Iterator[None]:
    before = app._HEALTH_CONNECTIONS, connection.HEADER_SECONDS
    app._HEALTH_CONNECTIONS, connection.HEADER_SECONDS = 4, 2.0
    yield
    app._HEALTH_CONNECTIONS, connection.HEADER_SECONDS = before


@pytest.mark.usefixtures("narrow_health")
def test_the_health_port_closes_the_silent_and_answers_the_newest(run: Run) -> None:
    async def body(s: Site) -> None:
        where = s.controller.health_address
        made = [await silent(where, "127.0.0.1") for _ in range(12)]
        for reader, _ in made[:8]:
            assert await ended(reader)
        reader, writer = await silent(where, "127.0.0.1")
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n")
        assert b" 200 " in await reader.read()
        for reader, _ in made[8:]:
            assert await ended(reader)  # by time
        for _, one in (*made, (reader, writer)):
            one.close()

    run(body)


def test_what_a_machine_says_is_one_line_of_plain_text() -> None:
    report = StateReport(1, False, Reason.PROBE_FAILED, "a\nb\x1b[2J\x1b]0;t\x07 \u202ec")
    _, _, message = readiness(report, None)
    assert message == "a b?[2J?]0;t? ?c"
