"""The controller over real TLS with real client certificates, in this process and as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import ssl
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
import yaml

from controller.app import Controller
from controller.config import ControllerConfig
from controller.embedded_store import EmbeddedStore
from controller.manifest import BUOYANT_GROUP_API
from controller.model import Key
from harness.clock import SystemClock
from harness.errors import ConfigError
from harness.messages import CODES
from harness.values import HostPort
from tests.controller_support import TRUST_DOMAIN, Answer, Authority, Client, group, group_object
from tests.ports import free_port

FACE = f"spiffe://{TRUST_DOMAIN}/face"
LOOPBACK = HostPort("127.0.0.1", 0)
REQUEST = {"group": "face", "namespace": "faces", "instance_id": "one", "hostname": "face-1", "addresses": ["192.0.2.1"]}


@dataclass
class Site:
    controller: Controller
    authority: Authority
    log: list[Any]
    certificate: tuple[str, str]

    def context(self, *uris: str, label: str = "peer", **options: Any) -> ssl.SSLContext:
        return self.authority.client(self.authority.issue(label, *uris, **options))

    def client(self, context: ssl.SSLContext | None = None) -> Awaitable[Client]:
        return Client.connect(self.controller.address, context or self.context(FACE))

    async def call(
        self, method: str, path: str, body: object = None, *headers: tuple[str, str], context: ssl.SSLContext | None = None
    ) -> Answer:
        async with await self.client(context) as client:
            return await client.call(method, path, body, *headers)

    async def join(self, context: ssl.SSLContext | None = None, **changes: Any) -> dict[str, Any]:
        answer = await self.call("POST", "/v1/workloads", REQUEST | changes, context=context)
        assert answer.status in (200, 201), answer
        assert isinstance(answer.body, dict)
        return answer.body


def path_of(made: dict[str, Any]) -> str:
    return f"/v1/workloads/{made['namespace']}/{made['name']}"


def secret_of(made: dict[str, Any]) -> tuple[str, str]:
    return "Meshexp-Secret", made["secret"]


def report(sequence: int, ready: bool = True) -> dict[str, Any]:
    return {"sequence": sequence, "ready": ready, "reason": "Ready" if ready else "ProbeFailed"}


def config(authority: Authority, **changes: Any) -> ControllerConfig:
    certificate, key = authority.issue("server", dns=("controller",))
    fields = {"listen": LOOPBACK, "health_listen": LOOPBACK, "lease": 5.0, **changes}
    return ControllerConfig(certificate, key, authority.anchors, TRUST_DOMAIN, **fields)


@contextlib.asynccontextmanager
async def site(folder: pathlib.Path, **changes: Any) -> AsyncIterator[Site]:
    authority, clock = Authority(folder), SystemClock()
    store = EmbeddedStore(clock)
    for name in ("face", "smiley"):
        await store.buoyant_groups.create(group(name))
    with structlog.testing.capture_logs() as log:
        async with Controller(config(authority, **changes), store, clock) as controller, asyncio.timeout(60):
            yield Site(controller, authority, log, authority.issue("face", FACE))


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Callable[..., None]:
    def runner(body: Callable[[Site], Awaitable[None]], **changes: Any) -> None:
        async def main() -> None:
            async with site(tmp_path, **changes) as made:
                await body(made)

        asyncio.run(main())

    return runner


Run = Callable[..., None]


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
            assert answer.body["version"] == made["version"] and 1.9 < seconds < 3
            waiting = asyncio.create_task(timed(client, path, secret))
            await asyncio.sleep(0.3)
            old = await s.controller.store.buoyant_groups.get(Key("faces", "face"))
            await s.controller.store.buoyant_groups.replace(group(drainSeconds=9).__class__(
                old.api_version, old.metadata, group(drainSeconds=9).spec))  # fmt: skip
            seconds, answer = await waiting
            assert answer.body["drain_seconds"] == "9s" and seconds < 0.6
        short = s.context(FACE, label="short", ends=1.5)
        async with await s.client(short) as client:
            seconds, answer = await timed(client, f"{path_of(made)}?after={answer.body['version']}", secret)
            assert answer.status == 200 and seconds < 1.9
            await asyncio.sleep(1)
            assert (await client.call("GET", path, None, secret)).code == "unauthenticated"

    run(body, hold=2.0, lease=30.0)


def test_a_held_answer_that_ends_by_the_leave_is_no_refusal(run: Run) -> None:
    async def body(s: Site) -> None:
        made = await s.join()
        async with await s.client() as holding, await s.client() as client:
            held = asyncio.create_task(holding.call("GET", f"{path_of(made)}?after={made['version']}", None, secret_of(made)))
            await asyncio.sleep(0.2)
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
            async with asyncio.timeout(5):
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
        assert statistics.median(seconds) < 0.1

    run(body)


# hostile peers: refused by TLS


@pytest.mark.parametrize("kind", ["none", "wrong-ca", "removed-anchor", "expired", "not-yet", "server-key-usage", "tls12"])
def test_refused_by_tls(run: Run, tmp_path: pathlib.Path, kind: str) -> None:
    async def body(s: Site) -> None:
        other = Authority(tmp_path, "other")
        contexts: dict[str, Callable[[], ssl.SSLContext]] = {
            "none": lambda: s.authority.client(None),
            "wrong-ca": lambda: s.authority.client(other.issue("face", FACE)),
            "removed-anchor": lambda: s.authority.client(other.issue("face", FACE)),
            "expired": lambda: s.context(FACE, label="old", begins=-3600, ends=-1),
            "not-yet": lambda: s.context(FACE, label="new", begins=3600, ends=7200),
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


@contextlib.asynccontextmanager
async def trusting(s: Site, other: Authority) -> AsyncIterator[None]:
    """Meanwhile another anchor counts as well."""
    bundle = pathlib.Path(s.authority.anchors)
    own = bundle.read_text()
    bundle.write_text(own + pathlib.Path(other.anchors).read_text())
    await s.controller.reload()
    yield
    bundle.write_text(own)
    await s.controller.reload()


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


# hostile peers: refused by the controller


Hostile = Callable[[Site, dict[str, Any]], Awaitable[Answer]]


def with_certificate(*uris: str, **options: Any) -> Hostile:
    async def attack(s: Site, victim: dict[str, Any]) -> Answer:
        return await s.call(
            "POST", "/v1/workloads", REQUEST | {"instance_id": "two"}, context=s.context(*uris, label="odd", **options)
        )

    return attack


async def with_a_removed_anchor(s: Site, victim: dict[str, Any]) -> Answer:
    """On the connection that began while it counted, which has been silent since."""
    other = Authority(s.authority.folder, "other")
    async with trusting(s, other):
        client = await s.client(s.authority.client(other.issue("face", FACE)))
        assert (await client.call("GET", path_of(victim), None, secret_of(victim))).status == 200
    async with client:
        return await client.call("POST", path_of(victim) + "/state", report(5, False), secret_of(victim))


def with_request(method: str, path: str, body: object = None, *headers: tuple[str, str], uri: str = FACE) -> Hostile:
    """`{victim}` in the path is the victim's; `{secret}` in a header is its secret."""

    async def attack(s: Site, victim: dict[str, Any]) -> Answer:
        filled = ((name, value.replace("{secret}", victim["secret"])) for name, value in headers)
        return await s.call(method, path.replace("{victim}", path_of(victim)), body, *filled, context=s.context(uri, label="odd"))

    return attack


def with_bytes(data: bytes) -> Hostile:
    async def attack(s: Site, victim: dict[str, Any]) -> Answer:
        async with await s.client() as client:
            return await client.send(
                data.replace(b"{secret}", victim["secret"].encode()).replace(b"{victim}", path_of(victim).encode())
            )

    return attack


SECRET = ("Meshexp-Secret", "{secret}")
WRONG = ("Meshexp-Secret", "x" * 43)
TWO_ADDRESSES = REQUEST | {"addresses": ["192.0.2.8", "192.0.2.9"]}
BAD_HOSTNAME = REQUEST | {"hostname": "a\nb", "instance_id": "x"}
NOT_A_NUMBER = b'{"sequence": NaN, "ready": true, "reason": "Ready"}'
GIGABYTE = b"POST /v1/workloads HTTP/1.1\r\nHost: c\r\nContent-Length: 1073741824\r\n\r\n"
DELETE = b"DELETE {victim} HTTP/1.1\r\nHost: c\r\n"
CHUNKED = b"POST /v1/workloads HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n"

HOSTILE: dict[str, tuple[str, Hostile]] = {
    "no URI name": ("unauthenticated", with_certificate(dns=("face",))),
    "no name at all": ("unauthenticated", with_certificate()),
    "two URI names": ("unauthenticated", with_certificate(FACE, f"spiffe://{TRUST_DOMAIN}/smiley")),
    "a URI that is no SPIFFE ID": ("unauthenticated", with_certificate(f"https://{TRUST_DOMAIN}/face")),
    "a dot segment": ("unauthenticated", with_certificate(f"spiffe://{TRUST_DOMAIN}/x/../face")),
    "a trust domain without a path": ("unauthenticated", with_certificate(f"spiffe://{TRUST_DOMAIN}")),
    "a certificate that may sign": ("unauthenticated", with_certificate(FACE, ca=True)),
    "an anchor that was removed": ("unauthenticated", with_a_removed_anchor),
    "another trust domain": ("identity-not-allowed", with_certificate("spiffe://elsewhere/face")),
    "another group's identity": ("identity-not-allowed", with_certificate(f"spiffe://{TRUST_DOMAIN}/smiley")),
    "another namespace's identity": ("identity-not-allowed", with_certificate(f"spiffe://{TRUST_DOMAIN}/other/face")),
    "an identity in capitals": ("identity-not-allowed", with_certificate(f"spiffe://{TRUST_DOMAIN}/FACE")),
    "an unknown group": ("group-not-found", with_request("POST", "/v1/workloads", REQUEST | {"group": "nobody"})),
    "an unknown namespace": ("group-not-found", with_request("POST", "/v1/workloads", REQUEST | {"namespace": "kube-system"})),
    "another machine's name": ("name-taken", with_request("POST", "/v1/workloads", REQUEST)),
    "another machine's name, guessing": ("name-taken", with_request("POST", "/v1/workloads", REQUEST | {"secret": "x" * 43})),
    "another machine's address": ("address-taken", with_request("POST", "/v1/workloads", REQUEST | {"instance_id": "two"})),
    "loopback as address": ("address-not-allowed", with_request("POST", "/v1/workloads", REQUEST | {"addresses": ["127.0.0.1"]})),
    "another's state without the secret": ("secret-mismatch", with_request("POST", "{victim}/state", report(5, False))),
    "another's state, guessing": ("secret-mismatch", with_request("POST", "{victim}/state", report(5, False), WRONG)),
    "another's state with a stolen secret": (
        "identity-not-allowed",
        with_request("POST", "{victim}/state", report(5, False), SECRET, uri=f"spiffe://{TRUST_DOMAIN}/smiley"),
    ),
    "leaving for another": ("secret-mismatch", with_request("DELETE", "{victim}", None, WRONG)),
    "listening for another": ("secret-mismatch", with_request("GET", "{victim}?after=x", None, WRONG)),
    "an unknown machine": ("not-registered", with_request("DELETE", "/v1/workloads/faces/face-nobody", None, WRONG)),
    "a replayed report": ("stale-sequence", with_request("POST", "{victim}/state", report(1, False), SECRET)),
    "a negative sequence": ("stale-sequence", with_request("POST", "{victim}/state", report(-1, False), SECRET)),
    "an endless sequence": ("stale-sequence", with_request("POST", "{victim}/state", report(2**64, False), SECRET)),
    "a sequence of text": ("malformed", with_request("POST", "{victim}/state", report(1) | {"sequence": "9"}, SECRET)),
    "an unknown reason": ("malformed", with_request("POST", "{victim}/state", report(9) | {"reason": "Fine"}, SECRET)),
    "no JSON": ("malformed", with_request("POST", "/v1/workloads", b"{")),
    "not UTF-8": ("malformed", with_request("POST", "/v1/workloads", b"\xff\xfe\xfa")),
    "JSON without end": ("malformed", with_request("POST", "/v1/workloads", b"[" * 60_000)),
    "a JSON list": ("malformed", with_request("POST", "/v1/workloads", [REQUEST])),
    "not a number": ("malformed", with_request("POST", "{victim}/state", NOT_A_NUMBER, SECRET)),
    "two addresses of a family": ("malformed", with_request("POST", "/v1/workloads", TWO_ADDRESSES)),
    "a hostname with a line break": ("malformed", with_request("POST", "/v1/workloads", BAD_HOSTNAME)),
    "a group with a path": ("malformed", with_request("POST", "/v1/workloads", REQUEST | {"group": "../face"})),
    "too large": ("too-large", with_request("POST", "/v1/workloads", b" " * (64 * 1024 + 1))),
    "too large in chunks": ("too-large", with_bytes(CHUNKED + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 3)),
    "an announced gigabyte": ("too-large", with_bytes(GIGABYTE)),
    "an unknown path": ("unknown-call", with_request("GET", "/v1/workloads/../../etc/passwd", None, SECRET)),
    "an encoded path": ("unknown-call", with_request("GET", "/v1/workloads/faces/%66ace", None, SECRET)),
    "an unknown method": ("unknown-call", with_request("PUT", "{victim}", None, SECRET)),
    "the secret twice": ("malformed", with_request("DELETE", "{victim}", None, WRONG, SECRET)),
    "an identity in a header": (
        "identity-not-allowed",
        with_request(
            "DELETE", "{victim}", None, SECRET, ("X-Forwarded-Client-Cert", f"URI={FACE}"), ("l5d-client-id", FACE),
            uri=f"spiffe://{TRUST_DOMAIN}/smiley",
        ),
    ),
    "a folded header": ("malformed or secret-mismatch", with_bytes(DELETE + b"Meshexp-Secret: {secret}\r\n : x\r\n\r\n")),
    "a NUL in a header": ("malformed", with_bytes(DELETE + b"Meshexp-Secret: {secret}\0\r\n\r\n")),
    "a header without end": ("malformed", with_bytes(DELETE + b"X: {secret}" + b"x" * 20_000 + b"\r\n\r\n")),
    "no HTTP": ("malformed", with_bytes(b"\x16\x03\x01 {secret} hello\r\n\r\n")),
    "two lengths": (
        "malformed",
        with_bytes(DELETE + b"Content-Length: 3\r\nContent-Length: 0\r\nMeshexp-Secret: {secret}\r\n\r\nabc"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(run: Run, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    async def body(s: Site) -> None:
        expected, attack = HOSTILE[name]
        victim = await s.join()
        await s.call("POST", path_of(victim) + "/state", report(1), secret_of(victim))
        before = (await s.controller.store.workloads.list()).items
        answer = await attack(s, victim)
        assert answer.code in expected.split(" or ") and answer.status == CODES[answer.code]
        assert victim["secret"] not in json.dumps(answer.body)
        assert (await s.controller.store.workloads.list()).items == before and before[0].ready
        assert (await s.call("POST", path_of(victim) + "/state", report(7), secret_of(victim))).status == 204
        everything = json.dumps(s.log, default=str) + caplog.text + "".join(capfd.readouterr())
        assert victim["secret"] not in everything and "Traceback" not in everything

    run(body)


def test_the_slow_and_the_silent_are_cut_off_and_slow_nobody(run: Run, fast_deadlines: None) -> None:
    async def body(s: Site) -> None:
        context = s.context(FACE)
        raw = [await asyncio.open_connection(s.controller.address.host, s.controller.address.port) for _ in range(50)]
        idle = [await s.client(context) for _ in range(50)]
        headers = [await s.client(context) for _ in range(50)]
        bodies = [await s.client(context) for _ in range(50)]
        for client in headers:
            client.writer.write(b"POST /v1/workloads HTTP/1.1\r\nHost:")
        for client in bodies:
            client.writer.write(b"POST /v1/workloads HTTP/1.1\r\nHost: c\r\nContent-Length: 1000\r\n\r\n{")
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
    connection.HEADER_SECONDS, server._BODY_SECONDS = 4.0, 4.0
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


def test_health_and_metrics_are_plain_and_apart(run: Run) -> None:
    async def get(s: Site, path: str) -> str:
        reader, writer = await asyncio.open_connection(s.controller.health_address.host, s.controller.health_address.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        return text

    async def body(s: Site) -> None:
        await s.join()
        assert (await s.call("GET", "/metrics")).code == "unknown-call"
        assert " 200 " in await get(s, "/healthz") and " 200 " in await get(s, "/readyz") and " 404 " in await get(s, "/")
        text = await get(s, "/metrics")
        assert 'meshexp_controller_workloads{namespace="faces",group="face",ready="false"} 1' in text
        assert 'meshexp_controller_requests_total{call="register",code="ok"} 1' in text
        assert 'meshexp_controller_requests_total{call="unknown",code="unknown-call"} 1' in text

    run(body)


def test_stopping_answers_whoever_waits_and_leaves_no_task(run: Run, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as s:
            made = await s.join()
            client = await s.client()
            waiting = asyncio.create_task(client.call("GET", f"{path_of(made)}?after={made['version']}", None, secret_of(made)))
            await asyncio.sleep(0.2)
        assert (await waiting).status == 200
        client.writer.transport.abort()
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


# the process


def write_groups(folder: pathlib.Path, **spec: Any) -> None:
    (folder / "face.yaml").write_text(
        yaml.safe_dump_all([group_object(api=BUOYANT_GROUP_API, **spec), {"kind": "Service", "apiVersion": "v1"}])
    )


async def started(folder: pathlib.Path, *flags: str) -> tuple[asyncio.subprocess.Process, HostPort]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controller", "run", "--config", str(folder / "controller.yaml"), *flags,
        stderr=asyncio.subprocess.PIPE, cwd=pathlib.Path(__file__).parents[2], env=dict(os.environ),
    )  # fmt: skip
    line = await next_line(process, "controller ready")
    host, _, port = line["address"].rpartition(":")
    return process, HostPort(host, int(port))


async def next_line(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while text := await process.stderr.readline():
            line: dict[str, Any] = json.loads(text)
            if line["event"] == event:
                return line
    raise AssertionError(f"it ended without saying {event!r}")


def write_config(folder: pathlib.Path, **changes: Any) -> Authority:
    authority = Authority(folder)
    certificate, key = authority.issue("server", dns=("controller",))
    (folder / "groups").mkdir()
    write_groups(folder / "groups")
    data = {
        "tls_cert": certificate, "tls_key": key, "trust_anchors": authority.anchors, "trust_domain": TRUST_DOMAIN,
        "groups": str(folder / "groups"), "listen": f"127.0.0.1:{free_port()}",
        "health_listen": f"127.0.0.1:{free_port()}", **changes,
    }  # fmt: skip
    (folder / "controller.yaml").write_text(yaml.safe_dump(data))
    return authority


def test_the_process_follows_its_files_and_stops_on_sigterm(tmp_path: pathlib.Path) -> None:
    authority = write_config(tmp_path, facts=str(tmp_path / "facts.yaml"))
    (tmp_path / "facts.yaml").write_text("service_cidrs: [10.43.0.0/16]\n")
    context = authority.client(authority.issue("face", FACE))

    async def main() -> None:
        process, address = await started(tmp_path)
        try:
            async with await Client.connect(address, context) as client:
                made = (await client.call("POST", "/v1/workloads", REQUEST)).body
                assert made["facts"]["service_cidrs"] == ["10.43.0.0/16"]

                async def change(act: Callable[[], object]) -> tuple[float, dict[str, Any]]:
                    path = f"{path_of(made)}?after={made['version']}"
                    waiting = asyncio.create_task(client.call("GET", path, None, secret_of(made)))
                    await asyncio.sleep(0.1)
                    act()
                    began = time.monotonic()
                    made.update((await waiting).body)
                    return time.monotonic() - began, made

                seconds, told = await change(lambda: write_groups(tmp_path / "groups", drainSeconds=7))
                assert told["drain_seconds"] == "7s" and seconds < 2
                print(f"\ngroup edit to machine: {seconds:.2f} s")
                (tmp_path / "facts.yaml").write_text("service_cidrs: [10.44.0.0/16]\n")
                seconds, told = await change(lambda: process.send_signal(signal.SIGHUP))
                assert told["facts"]["service_cidrs"] == ["10.44.0.0/16"]
                await next_line(process, "reloaded")
                (tmp_path / "groups" / "face.yaml").write_text("kind: ExternalGroup\n")
                assert "apiVersion" in (await next_line(process, "groups not read; the old ones stay in force"))["error"]
                assert (await client.call("POST", path_of(made) + "/state", report(1), secret_of(made))).status == 204
                process.terminate()
                assert await asyncio.wait_for(process.wait(), 10) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"lisen": "x"}, 78, "did you mean listen?"),
        ({"lease": "0s"}, 78, "lease must be"),
        ({"tls_cert": "/nonexistent"}, 78, "tls_cert"),
        ({"groups": "/nonexistent"}, 78, "/nonexistent"),
        ({"listen": "192.0.2.1:1"}, 69, "cannot listen on 192.0.2.1:1"),
    ],
)
def test_bad_configuration(tmp_path: pathlib.Path, change: dict[str, str], code: int, text: str) -> None:
    write_config(tmp_path, **change)

    async def main() -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "controller", "run", "--config", str(tmp_path / "controller.yaml"),
            stderr=asyncio.subprocess.PIPE, cwd=pathlib.Path(__file__).parents[2],
        )  # fmt: skip
        _, errors = await asyncio.wait_for(process.communicate(), 20)
        return process.returncode, errors.decode()

    status, errors = asyncio.run(main())
    assert status == code and text in errors and "Traceback" not in errors
