"""What a server answers on the wire: the readers with their real connections, to a server that says what the input is."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from controller.kubernetes.access import Access
from controller.kubernetes.client import Client
from controller.kubernetes.cluster import _object
from controller.kubernetes.collection import KubernetesCollection
from controller.store import GoneError
from harness.errors import HarnessError
from harness.probe import Grpc, HttpGet, Probe
from harness.specs import Check
from harness.system import tls_look
from harness.system.oci_registry import Registry, parse
from harness.system.probe_call import Checker
from harness.system.proxy_admin import LoopbackAdmin
from tests.fuzz.engine import Target
from tests.fuzz.of_crypto import _ANSWER, _REFUSAL


class Server:
    """On loopback, in the loop of the reader: each connection is sent `says`, and closed."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.says = b""
        self._server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])
        atexit.register(self.close)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(self.says)
            await writer.drain()
            writer.write_eof()
            while await reader.read(65536):
                pass
        writer.close()

    def close(self) -> None:
        self._server.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@functools.cache
def server() -> Server:
    return Server()


def answered(ask: Callable[[int], Awaitable[Any]]) -> Callable[[bytes], object]:
    """`ask`: what calls the server's port."""

    def reader(data: bytes) -> object:
        made = server()
        made.says = data

        async def asked() -> object:
            return await asyncio.wait_for(ask(made.port), 20)

        return made.loop.run_until_complete(asked())

    return reader


@functools.cache
def _admin() -> LoopbackAdmin:
    return LoopbackAdmin()


@functools.cache
def _checker() -> Checker:
    return Checker()


async def _metrics(port: int) -> None:
    assert isinstance(await _admin().certificate_expiry(port), float)
    await _admin().says_ready(port)


async def _http(port: int) -> None:
    await _checker().check(Check(Probe(http_get=HttpGet(port, "127.0.0.1", "/ready"), timeout_seconds=5)))


async def _grpc(port: int) -> None:
    await _checker().check(Check(Probe(grpc=Grpc(port, "127.0.0.1"), timeout_seconds=5)))


async def _registry(port: int) -> None:
    """Blocking, so in a thread."""

    def ask() -> None:
        with Registry(parse(f"127.0.0.1:{port}/linkerd/proxy:x"), insecure=True, silence=5.0) as registry:
            registry.top()

    await asyncio.to_thread(ask)


def _headed(body: bytes, *lines: str) -> bytes:
    head = "\r\n".join(("HTTP/1.1 200 OK", *lines, f"Content-Length: {len(body)}", "", ""))
    return head.encode() + body


class _Once:
    """A client whose second watch says that it begins too early, so that a collection's watch has an end."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asked = False

    async def watch(self, path: str, **query: str) -> AsyncIterator[Any]:
        if self._asked:
            raise GoneError("once")
        self._asked = True
        async for event in self._client.watch(path, **query):
            yield event


@functools.cache
def _cluster(port: int) -> Client:
    return Client(Access(f"http://127.0.0.1:{port}", ssl.create_default_context(), lambda: None, "faces"))


async def _watch(port: int) -> None:
    once: Any = _Once(_cluster(port))
    async for _ in KubernetesCollection(once, "v1", "nodes", _object).watch("1"):
        pass


async def _list(port: int) -> None:
    await KubernetesCollection(_cluster(port), "v1", "nodes", _object).list()


_NODE = b'{"metadata": {"name": "n", "resourceVersion": "5"}}'
_EVENTS = b"".join(b'{"type": "%s", "object": %s}\n' % (kind, _NODE) for kind in (b"ADDED", b"BOOKMARK", b"DELETED"))
_GONE = b'{"type": "ERROR", "object": {"code": 410, "message": "too old"}}\n'
_PAGE = b'{"items": [%s], "metadata": {"resourceVersion": "7"}}' % _NODE
_METRICS = (
    b"# TYPE control_identity_cert_expiration_timestamp_seconds gauge\ncontrol_identity_cert_expiration_timestamp_seconds 1.8e9\n"
)
_TOKEN = (
    b"HTTP/1.1 401 Unauthorized\r\n"
    b'WWW-Authenticate: Bearer realm="http://127.0.0.1:1/token",service="x",scope="y"\r\nContent-Length: 0\r\n\r\n'
)
_MANIFEST = _headed(b'{"layers": []}', "Content-Type: application/vnd.oci.image.manifest.v1+json")

TARGETS = (
    Target("http.metrics", answered(_metrics), (_headed(_METRICS, "Content-Type: text/plain; charset=utf-8"),)),
    Target("http.probe", answered(_http), (_headed(b"ok"), _headed(b"ok", "Content-Encoding: gzip", "Location: /x"))),
    Target("http.grpc", answered(_grpc), (_REFUSAL, _ANSWER)),
    Target("http.registry", answered(_registry), (_MANIFEST, _TOKEN), (HarnessError,)),
    Target("kubernetes.watch", answered(_watch), (_headed(_EVENTS), _headed(_GONE)), (HarnessError,)),
    Target("kubernetes.page", answered(_list), (_headed(_PAGE),), (HarnessError,)),
    Target("http.date", lambda data: tls_look._skew(data, 1.7e9, 1.7e9), (b"Date: Tue, 24 Nov 2026 20:00:00 GMT\r\n",)),
)
