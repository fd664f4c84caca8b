"""A daemon's part that looks at trust anchors, and three servers on loopback that prove some: for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog
from cryptography.hazmat.primitives import serialization

from harness import anchors, problems
from harness.clock import SystemClock
from harness.config import schema
from harness.daemon import anchors_kept
from harness.daemon.anchors import Anchors
from harness.daemon.head_start import Wakes
from harness.known import Machine, Progress
from harness.messages import ClusterFacts, LinkerdFacts
from harness.paths import Paths
from harness.specs import User
from harness.status import Condition
from harness.system.workload_api import Svid
from harness.values import HostPort, canonical_pem
from tests import builders
from tests.controller_support import Authority

IDENTITY = "meshexp-controller.meshexp.serviceaccount.identity.linkerd.cluster.local"
LINKERD = "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local"
SERVERS = ("controller", "destination", "policy")


@dataclass
class Site:
    """Three servers on loopback, whose certificates may change, and the daemon's part that looks at anchors."""

    folder: Path
    contexts: dict[str, ssl.SSLContext] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    connections: int = 0
    authorities: dict[str, Authority] = field(default_factory=dict)
    found: Machine = field(default_factory=builders.machine)
    told: str = ""
    mode: str = "follow"
    under: str = "old"

    def __post_init__(self) -> None:
        self.paths = Paths(self.folder / "etc", self.folder / "state", self.folder / "run")
        self.file = self.folder / "anchors.pem"
        self.begin()

    def begin(self) -> None:
        """A daemon starts."""
        self.wakes = Wakes()
        self.looks = Anchors(self.paths, SystemClock(), self.wakes, structlog.get_logger())

    def restart(self) -> None:
        self.begin()
        self.found = replace(self.found, adopted=anchors_kept.of(self.config, self.paths))

    def authority(self, name: str) -> Authority:
        """The wrong ones have the subject of the old one, as Linkerd's anchors have one subject."""
        if name not in self.authorities:
            (self.folder / name).mkdir()
            self.authorities[name] = Authority(self.folder / name, name if name in ("old", "new") else "old")
        return self.authorities[name]

    def pem(self, *names: str) -> str:
        return canonical_pem("".join(Path(self.authority(name).anchors).read_text() for name in names))

    def serve_under(self, name: str, *servers: str, linkerd: str = LINKERD) -> None:
        """From now on their certificates are of that authority."""
        for server in servers or SERVERS:
            dns = IDENTITY if server == "controller" else linkerd
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.authority(name).issue(server, dns=(dns,)))
            self.contexts[server] = context

    @property
    def config(self) -> schema.Config:
        controller = {"address": f"127.0.0.1:{self.ports['controller']}", "identity": IDENTITY}
        return builders.config(controller={**controller, "trust_anchors": str(self.file), "anchors": self.mode})

    @property
    def progress(self) -> Progress:
        places = {f"{name}_address": HostPort("127.0.0.1", self.ports[name]) for name in ("destination", "policy")}
        linkerd = LinkerdFacts(**places, destination_identity="told", policy_identity="told")
        facts = ClusterFacts(trust_anchors_pem=self.told, linkerd=linkerd)
        return builders.progress(registration=builders.registration(facts=facts), svid=None)

    async def look(self) -> None:
        self.found = await self.looks.look_again(self.config, self.found, self.progress)

    @property
    def in_force(self) -> str:
        return anchors.in_force(self.found.anchors_pem, self.found.adopted)

    @property
    def condition(self) -> Condition | None:
        return self.looks.condition(self.config, self.found, self.progress)

    @property
    def problem(self) -> problems.Problem | None:
        return self.condition.problem if self.condition else None

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            await self.look()
            while not what():
                await self.wakes.within(0.5)
                await self.look()

    async def takes(self, *names: str) -> None:
        self.told = self.pem(*names)
        await self.until(lambda: self.in_force == self.pem(*names))
        assert self.problem in (None, problems.ANCHORS_BEHIND)

    async def refuses(self, *names: str) -> str:
        before, self.told = self.in_force, self.pem(*names)
        await self.until(lambda: self.problem is problems.ANCHORS_UNPROVEN)
        assert self.in_force == before and self.pem(*names) not in self.paths.anchors.read_text()
        return self.condition.message if self.condition else ""


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Site]:
    """Serving under `old`, which is what the file has."""
    site = Site(folder)

    def front(name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

        def choose(tls: ssl.SSLObject, *_: Any) -> None:
            tls.context = site.contexts[name]

        context.sni_callback = choose
        return context

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        site.connections += 1
        writer.close()

    async with contextlib.AsyncExitStack() as stack:
        for name in SERVERS:
            server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=front(name))
            await stack.enter_async_context(server)
            site.ports[name] = server.sockets[0].getsockname()[1]
        site.serve_under("old")
        site.file.write_text(site.pem("old"))
        site.found = builders.machine(anchors_pem=site.pem("old"), user=User(os.geteuid(), os.getegid()))
        yield site


def svid_of(files: tuple[str, str]) -> Svid:
    """Of a certificate and its key, as files."""
    certificate, key = (Path(name).read_text() for name in files)
    secret = serialization.load_pem_private_key(key.encode(), None)
    packed = secret.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made: Svid = builders.svid(chain_der=(ssl.PEM_cert_to_DER_cert(certificate),), key_der=packed)
    return made
