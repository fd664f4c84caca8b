"""The controller over real TLS with real client certificates: joining, held answers, certificates, and its end."""

from __future__ import annotations

import asyncio
import json
import pathlib
import ssl
import statistics
import time
from collections.abc import Callable

import pytest

from controller.model import Key
from harness.errors import ConfigError
from tests import exposition
from tests.children.controller_site import FACE, REQUEST, Run, Site, path_of, report, run_fixture, secret_of, site, trusting  # noqa: F401 — the fixture
from tests.controller_support import Answer, Authority, Client, group


def test_from_joining_to_leaving(run: Run) -> None:
    async def body(s: Site) -> None:
        async with await s.client() as client:
            joined = await client.call("POST", "/v1/workloads", REQUEST)
            assert joined.status == 201
            made = joined.body
            assert (
                made["identity"] == FACE
                and made["lease_seconds"] == "5s"
                and "BEGIN CERTIFICATE" in made["facts"]["trust_anchors_pem"]
            )
            assert (await client.call("POST", "/v1/workloads", REQUEST | {"secret": made["secret"]})).status == 200
            assert (await client.call("POST", path_of(made) + "/state", report(1), secret_of(made))).status == 204
            assert (await s.controller.store.workloads.get(Key("faces", made["name"]))).ready
            got = await client.call("GET", path_of(made), None, secret_of(made))
            assert got.status == 200 and got.body["version"] == made["version"] and "secret" not in got.body
            assert (await client.call("DELETE", path_of(made), None, secret_of(made))).status == 204
            assert (await client.call("DELETE", path_of(made), None, secret_of(made))).code == "not-registered"
        assert made["secret"] not in json.dumps(s.log, default=str)

    run(body)


def test_a_held_answer_ends_with_the_hold_with_a_change_or_with_the_certificate(run: Run) -> None:
    async def timed(client: Client, path: str, *headers: tuple[str, str]) -> tuple[float, Answer]:
        began = time.monotonic()
        answer = await client.call("GET", path, None, *headers)
        return time.monotonic() - began, answer

    async def body(s: Site) -> None:
        made = await s.join()
        path, secret = f"{path_of(made)}?after={made['version']}", secret_of(made)
        async with await s.client() as client:
            seconds, answer = await timed(client, path, secret)
            assert answer.body["version"] == made["version"] and seconds > hold - 0.1
            waiting = asyncio.create_task(timed(client, path, secret))
            await asyncio.sleep(0.3)
            old = await s.controller.store.buoyant_groups.get(Key("faces", "face"))
            await s.controller.store.buoyant_groups.replace(group(drainSeconds=9).__class__(
                old.api_version, old.metadata, group(drainSeconds=9).spec))  # fmt: skip
            _, answer = await waiting
            assert answer.body["drain_seconds"] == "9s"
        short = s.context(FACE, label="short", ends=2.5)
        async with await s.client(short) as client:
            seconds, answer = await timed(client, f"{path_of(made)}?after={answer.body['version']}", secret)
            assert answer.status == 200 and seconds < hold, "it did not wait for the end of the hold"
            await asyncio.sleep(1)
            assert (await client.call("GET", path, None, secret)).code == "unauthenticated"

    hold = 10.0
    run(body, hold=hold, lease=30.0)


def test_a_held_answer_that_ends_by_the_leave_is_no_refusal(run: Run) -> None:
    async def body(s: Site) -> None:
        made = await s.join()
        async with await s.client() as holding, await s.client() as client:
            held = asyncio.create_task(holding.call("GET", f"{path_of(made)}?after={made['version']}", None, secret_of(made)))
            await asyncio.sleep(0.5)
            assert (await client.call("DELETE", path_of(made), None, secret_of(made))).status == 204
            assert (await held).code == "not-registered"
            assert not [line for line in s.log if line["event"] == "refused"]
            assert (await client.call("GET", path_of(made), None, secret_of(made))).code == "not-registered"
            assert [line["code"] for line in s.log if line["event"] == "refused"] == ["not-registered"]

    run(body, hold=20.0)


def test_a_lost_first_answer_costs_nothing_to_a_machine_that_brought_its_secret(run: Run) -> None:
    async def body(s: Site) -> None:
        secret = "s" * 43
        data = json.dumps(REQUEST | {"secret": secret}).encode()
        head = f"POST /v1/workloads HTTP/1.1\r\nHost: c\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        async with await s.client() as client:
            client.writer.write(head + data)
            await client.writer.drain()
            async with asyncio.timeout(60):
                while not (await s.controller.store.workloads.list()).items:
                    await asyncio.sleep(0.01)
        answer = await s.call("POST", "/v1/workloads", REQUEST | {"secret": secret})
        assert (answer.status, answer.body["secret"]) == (200, secret)
        async with await s.client() as client:
            await client.call("POST", "/v1/workloads", REQUEST | {"instance_id": "old", "addresses": ["192.0.2.7"]})
        old = await s.call("POST", "/v1/workloads", REQUEST | {"instance_id": "old", "addresses": ["192.0.2.7"]})
        assert old.code == "name-taken"  # one that brings none has to wait for its own lease

    run(body)


def test_latency_from_report_to_ready(run: Run) -> None:
    async def body(s: Site) -> None:
        made = await s.join()
        changes = s.controller.store.workloads.watch((await s.controller.store.workloads.list()).resource_version)
        seconds = []
        async with await s.client() as client:
            for sequence in range(200):
                began = time.perf_counter()
                asked = asyncio.create_task(
                    client.call("POST", path_of(made) + "/state", report(sequence, sequence % 2 == 0), secret_of(made))
                )
                change = await anext(changes)
                seconds.append(time.perf_counter() - began)
                assert change.item.ready is (sequence % 2 == 0)
                assert (await asked).status == 204
        print(
            f"\nreport to ExternalWorkload: median {statistics.median(seconds) * 1000:.2f} ms, worst {max(seconds) * 1000:.2f} ms"
        )

    run(body)


@pytest.mark.parametrize("kind", ["none", "wrong-ca", "removed-anchor", "server-key-usage", "tls12"])
def test_refused_by_tls(run: Run, tmp_path: pathlib.Path, kind: str) -> None:
    async def body(s: Site) -> None:
        other = Authority(tmp_path, "other")
        contexts: dict[str, Callable[[], ssl.SSLContext]] = {
            "none": lambda: s.authority.client(None),
            "wrong-ca": lambda: s.authority.client(other.issue("face", FACE)),
            "removed-anchor": lambda: s.authority.client(other.issue("face", FACE)),
            "server-key-usage": lambda: s.authority.client(self_signed(tmp_path)),
            "tls12": lambda: s.context(FACE),
        }
        context = contexts[kind]()
        if kind == "tls12":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if kind == "removed-anchor":
            async with trusting(s, other):
                assert (await s.call("GET", "/", context=context)).code == "unknown-call"
        with pytest.raises((OSError, EOFError)):
            await s.call("POST", "/v1/workloads", REQUEST, context=context)
        assert (await s.controller.store.workloads.list()).items == ()
        await s.join()  # nobody else is disturbed

    run(body)


def test_a_removed_anchor_ends_what_began_under_it(run: Run, tmp_path: pathlib.Path) -> None:
    """`one` shows a certificate under the anchor that goes, `two` one under the anchor that stays."""

    async def body(s: Site) -> None:
        other = Authority(tmp_path, "other")
        connections, held = {}, {}
        async with trusting(s, other):
            one = await s.join(s.authority.client(other.issue("face", FACE)))
            two = await s.join(instance_id="two", addresses=["192.0.2.2"])
            for made, context in ((one, s.authority.client(other.issue("face", FACE))), (two, None)):
                client = connections[made["name"]] = await s.client(context)
                path = f"{path_of(made)}?after={made['version']}"
                held[made["name"]] = asyncio.create_task(client.call("GET", path, None, secret_of(made)))
            await asyncio.sleep(0.2)
            bundle = pathlib.Path(s.authority.anchors)
            both = bundle.read_text()
            bundle.write_text("no certificate")
            with pytest.raises(ConfigError):
                await s.controller.reload()
            bundle.write_text(both)
            await asyncio.sleep(0.2)
            assert not any(task.done() for task in held.values()), "anchors that cannot be read change nothing"
        for task in held.values():
            assert (await task).body["facts"]["trust_anchors_pem"].count("BEGIN CERTIFICATE") == 1
        assert await connections[one["name"]].reader.read() == b"", "its connection has ended"
        with pytest.raises((OSError, EOFError)):
            await s.call("GET", path_of(one), None, secret_of(one), context=s.authority.client(other.issue("face", FACE)))
        assert (await connections[two["name"]].call("GET", path_of(two), None, secret_of(two))).status == 200
        for client in connections.values():
            client.writer.transport.abort()

    run(body, hold=30.0, lease=60.0)


def self_signed(folder: pathlib.Path) -> tuple[str, str]:
    (folder / "self").mkdir()
    authority = Authority(folder / "self", "self")
    return authority.anchors, str(folder / "self" / "self.key.pem")


async def get(s: Site, path: str) -> str:
    reader, writer = await asyncio.open_connection(s.controller.health_address.host, s.controller.health_address.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return text


def test_health_and_metrics_are_plain_and_apart(run: Run) -> None:
    async def body(s: Site) -> None:
        await s.join()
        assert (await s.call("GET", "/metrics")).code == "unknown-call"
        assert " 200 " in await get(s, "/healthz") and " 200 " in await get(s, "/readyz") and " 404 " in await get(s, "/")
        text = await get(s, "/metrics")
        assert 'meshexp_controller_workloads{namespace="faces",group="face",ready="false"} 1' in text
        assert 'meshexp_controller_requests_total{call="register",code="ok"} 1' in text
        assert 'meshexp_controller_requests_total{call="unknown",code="unknown-call"} 1' in text

    run(body)


def test_a_group_counts_its_machines_for_as_long_as_it_is_there(run: Run) -> None:
    """Also those that it does not have: what is said of a group must not end when its last machine is deleted."""

    async def counted(s: Site) -> dict[str, int]:
        found = metrics(await get(s, "/metrics"))
        return {
            ready: int(value)
            for ready in ("true", "false")
            if (value := found.value("meshexp_controller_workloads", namespace="faces", group="face", ready=ready)) is not None
        }

    async def body(s: Site) -> None:
        assert await counted(s) == {"true": 0, "false": 0}
        made = await s.join()
        assert await counted(s) == {"true": 0, "false": 1}
        assert (await s.call("POST", path_of(made) + "/state", report(1), secret_of(made))).status == 204
        assert await counted(s) == {"true": 1, "false": 0}
        assert (await s.call("DELETE", path_of(made), None, secret_of(made))).status == 204
        assert await counted(s) == {"true": 0, "false": 0}
        await s.controller.store.buoyant_groups.delete(Key("faces", "face"))
        async with asyncio.timeout(30):
            while await counted(s):
                await asyncio.sleep(0.05)

    run(body)


def test_its_certificate_is_told_with_its_lifetime(run: Run) -> None:
    async def body(s: Site) -> None:
        found, now = metrics(await get(s, "/metrics")), time.time()
        end = found.value("meshexp_controller_certificate_expiry_timestamp_seconds") or 0
        life = found.value("meshexp_controller_certificate_lifetime_seconds") or 0
        assert end - life < now < end

    run(body)


def metrics(answer: str) -> exposition.Metrics:
    text = answer.partition("\r\n\r\n")[2]
    exposition.lint(text)
    return exposition.read(text)


def test_stopping_answers_whoever_waits_and_leaves_no_task(run: Run, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as s:
            made = await s.join()
            client = await s.client()
            waiting = asyncio.create_task(client.call("GET", f"{path_of(made)}?after={made['version']}", None, secret_of(made)))
            await asyncio.sleep(0.2)
        assert (await waiting).status == 200
        client.writer.transport.abort()
        async with asyncio.timeout(60):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.05)

    asyncio.run(main())
