"""What a hostile or a slow peer of the controller gets, over real TLS: a refusal by name, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from harness.messages import CODES
from tests.children.controller_site import FACE, REQUEST, Run, Site, path_of, report, run_fixture, secret_of, trusting  # noqa: F401 — the fixture
from tests.controller_support import TRUST_DOMAIN, Answer, Authority, Client

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
