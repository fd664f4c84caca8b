"""What the metrics' server says of a daemon whose cycle does not go on."""

from __future__ import annotations

import asyncio
import urllib.request

from harness.config import schema
from harness.daemon.export import Exporter
from harness.values import HostPort
from tests import exposition
from tests.controller_support import StandingClock
from tests.ports import free_port
from tests.snapshots import snapshot


def asked(port: int) -> exposition.Metrics:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return exposition.read(answer.read().decode())


def test_what_was_said_last_does_not_count_for_ever() -> None:
    port = free_port()

    async def body() -> None:
        clock = StandingClock()
        exporter = Exporter(clock)
        data = snapshot() | {"written": {"at": snapshot()["looked"], "uptime": 0.0, "valid_seconds": 5.0}}
        await exporter.export(schema.Metrics(listen=HostPort("127.0.0.1", port)), data)
        for seconds, ready, phase in ((4.0, 1, "Ready"), (6.0, 0, "Unknown")):
            clock.seconds = seconds
            found = await asyncio.to_thread(asked, port)
            assert found.value("meshexp_ready") == ready
            assert found.value("meshexp_phase", phase=phase) == 1
            statuses = [found.value("meshexp_condition", condition="Routes", status=s) for s in ("true", "unknown")]
            assert statuses == [ready, 1 - ready]
        exporter.show(data | {"written": data["written"] | {"uptime": 6.0}})
        assert (await asyncio.to_thread(asked, port)).value("meshexp_ready") == 1
        exporter.close()

    asyncio.run(body())
