"""What a hostile or a slow peer of the controller gets, over real TLS: a refusal by name, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Iterator

import pytest

from harness.messages import CODES
from tests.children.controller_site import FACE, Run, Site, path_of, report, run_fixture, secret_of  # noqa: F401 — the fixture
from tests.controller_support import Client
from tests.hostile_machine import ALONE, HOSTILE, WAITS

MOST_GROWTH_KIB = 64 << 10


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(run: Run, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """By its code; and then the objects, the victim's next call, the log and the memory are as if nothing had come."""

    async def body(s: Site) -> None:
        expected, attack = HOSTILE[name]
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        victim = await s.join()
        await s.call("POST", path_of(victim) + "/state", report(1), secret_of(victim))
        before = (await s.controller.store.workloads.list()).items
        answer = await attack(s, victim)
        assert answer.code in expected.split(" or ") and answer.status == CODES[answer.code]
        assert victim["secret"] not in json.dumps(answer.body)
        after = (await s.controller.store.workloads.list()).items
        assert [one.spec for one in after] == [one.spec for one in before]
        assert name in ALONE or (after == before and before[0].ready)
        assert (await s.call("POST", path_of(victim) + "/state", report(7), secret_of(victim))).status == 204
        everything = json.dumps(s.log, default=str) + caplog.text + "".join(capfd.readouterr())
        assert victim["secret"] not in everything and "Traceback" not in everything
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size < MOST_GROWTH_KIB

    try:
        run(body)
    except AssertionError:
        if name in WAITS:
            pytest.xfail("it is not refused yet")
        raise
    assert name not in WAITS, "it is refused now: take it off WAITS"


def test_the_table_is_large() -> None:
    assert len(HOSTILE) >= 60 and HOSTILE.keys() >= WAITS


def test_the_slow_and_the_silent_are_cut_off_and_slow_nobody(run: Run, fast_deadlines: None) -> None:
    async def body(s: Site) -> None:
        context = s.context(FACE)

        async def begun(text: bytes) -> Client:
            """It writes at once: on a busy machine one that waited for the others would be cut off before it has begun."""
            client = await s.client(context)
            client.writer.write(text)
            return client

        raw = [await asyncio.open_connection(s.controller.address.host, s.controller.address.port) for _ in range(50)]
        idle = [await s.client(context) for _ in range(50)]
        headers = [await begun(b"POST /v1/workloads HTTP/1.1\r\nHost:") for _ in range(50)]
        long_body = b"POST /v1/workloads HTTP/1.1\r\nHost: c\r\nContent-Length: 1000\r\n\r\n{"
        bodies = [await begun(long_body) for _ in range(50)]
        cut_off = [asyncio.create_task(client.answer()) for client in bodies]
        await s.join()
        assert not any(task.done() for task in cut_off), "others are served while the slow ones are still waited for"
        answers = await asyncio.gather(*cut_off)
        assert {answer.code for answer in answers} == {"too-slow"}
        for client in idle + headers:
            assert await client.reader.read() == b""
        for _, writer in raw:
            writer.close()

    run(body)


@pytest.fixture
def fast_deadlines() -> Iterator[None]:
    from controller import connection, server

    before = connection.HEADER_SECONDS, server._BODY_SECONDS
    connection.HEADER_SECONDS = 4.0
    # Longer than fifty connections and a join take on a busy machine: the test joins while the slow bodies are waited for.
    server._BODY_SECONDS = 15.0
    yield
    connection.HEADER_SECONDS, server._BODY_SECONDS = before


def test_requests_sent_ahead_without_end_cost_a_connection_not_memory(run: Run) -> None:
    async def body(s: Site) -> None:
        made = await s.join()
        path = f"{path_of(made)}?after={made['version']}"
        ask = f"GET {path} HTTP/1.1\r\nHost: c\r\nMeshexp-Secret: {made['secret']}\r\n\r\n".encode()
        taken = 0
        async with await s.client() as client:
            # It is cut off, or (with an aiohttp that stops reading) gets stuck; either way the kernel's buffers are all it fills.
            with pytest.raises((OSError, TimeoutError)):
                async with asyncio.timeout(3):
                    while True:
                        client.writer.write(ask * 1000)
                        await client.writer.drain()
                        taken += 1000 * len(ask)
        assert taken < 12 * 1024 * 1024

    run(body, lease=60.0)
