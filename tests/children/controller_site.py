"""A controller with a store in this process, and its clients, over real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from controller.app import Controller
from controller.config import ControllerConfig
from controller.embedded_store import EmbeddedStore
from harness.clock import SystemClock
from harness.values import HostPort
from tests.controller_support import TRUST_DOMAIN, Answer, Authority, Client, group

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
        async with Controller(config(authority, **changes), store, clock) as controller, asyncio.timeout(180):
            yield Site(controller, authority, log, authority.issue("face", FACE))


@pytest.fixture(name="run")
def run_fixture(tmp_path: pathlib.Path) -> Callable[..., None]:
    def runner(body: Callable[[Site], Awaitable[None]], **changes: Any) -> None:
        async def main() -> None:
            async with site(tmp_path, **changes) as made:
                await body(made)

        asyncio.run(main())

    return runner


Run = Callable[..., None]


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
