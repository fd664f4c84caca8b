"""Where a connection goes: what the demo's endpoint server says of its original destination, kept fresh by a held request."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass
from typing import Any

from demo.proxy.settings import SocketAddress
from demo.proxy.streams import Stream
from harness.backoff import Backoff
from harness.values import HostPort

_LOG = logging.getLogger(__name__)
PATIENCE = 3.0  # seconds; linkerd2-proxy's outbound fail-fast timeout
_ANSWER_TIMEOUT = 40.0  # the server holds a request for 30 s
_UNUSED_FOR = 60.0
_BACKOFF = Backoff(first=0.1, most=1.0)


@dataclass(frozen=True, slots=True)
class Endpoint:
    address: SocketAddress
    identity: str
    server_name: str
    name: str
    backend: str
    weight: int


class Target:
    """The endpoints behind one destination, and how many of our connections each has."""

    def __init__(self) -> None:
        self.known = asyncio.Event()
        self.service: str | None = None
        self.used_at = 0.0
        self._endpoints: tuple[Endpoint, ...] = ()
        self._open: Counter[Endpoint] = Counter()
        self._turns: dict[Endpoint, int] = {}
        self._turn = itertools.count(1)
        self._credit: Counter[str] = Counter()
        self._changed = asyncio.Event()

    @property
    def meshed(self) -> bool:
        return self.service is not None or bool(self._endpoints)

    @property
    def in_use(self) -> bool:
        return self._open.total() > 0

    def update(self, service: str | None, endpoints: tuple[Endpoint, ...]) -> None:
        self.service, self._endpoints = service, endpoints
        self.known.set()
        self._changed.set()
        self._changed = asyncio.Event()

    def choose(self, but: Set[Endpoint]) -> Endpoint | None:
        """Of the backend whose turn it is, the endpoint with the fewest open connections; of equals the one used longest ago."""
        candidates = [endpoint for endpoint in self._endpoints if endpoint not in but]
        backend = self._choose_backend({endpoint.backend: endpoint.weight for endpoint in candidates})
        candidates = [endpoint for endpoint in candidates if endpoint.backend == backend]
        chosen = min(candidates, key=lambda one: (self._open[one], self._turns.get(one, 0)), default=None)
        if chosen is not None:
            self._turns[chosen] = next(self._turn)
        return chosen

    def _choose_backend(self, weights: dict[str, int]) -> str | None:
        """In turns: after as many connections as the sum of the weights, each backend has had exactly its share."""
        self._credit.update(weights)
        chosen = max(weights, key=lambda backend: self._credit[backend], default=None)
        if chosen is not None:
            self._credit[chosen] -= sum(weights.values())
        return chosen

    def opened(self, endpoint: Endpoint) -> None:
        self._open[endpoint] += 1

    def closed(self, endpoint: Endpoint) -> None:
        self._open[endpoint] -= 1

    async def change(self, seconds: float) -> None:
        """Waits for an update, `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)


class Discovery:
    """`dial` makes the connection to the server; it raises OSError."""

    def __init__(self, server: HostPort, dial: Callable[[], Awaitable[Stream]]) -> None:
        self._server, self._dial = server, dial
        self._targets: dict[SocketAddress, Target] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def target(self, destination: SocketAddress) -> Target:
        """TimeoutError if the server does not tell in time; a destination once known stays known while the server is away."""
        target = self._targets.get(destination)
        if target is None:
            target = self._targets[destination] = Target()
            task = asyncio.create_task(self._follow(destination, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        target.used_at = asyncio.get_running_loop().time()
        await asyncio.wait_for(target.known.wait(), PATIENCE)
        return target

    async def _follow(self, destination: SocketAddress, target: Target) -> None:
        loop = asyncio.get_running_loop()
        version, failures = "", 0
        while target.in_use or loop.time() - target.used_at < _UNUSED_FOR:
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT):
                    answer = await self._ask(destination, version)
                if answer["version"] != version:
                    target.update(answer["service"], tuple(map(_endpoint, answer["endpoints"])))
                version, failures = answer["version"], 0
            except (OSError, ValueError, KeyError, TypeError) as error:
                _LOG.warning("endpoints of %s are unknown: %r", destination, error)
                failures += 1
                await asyncio.sleep(_BACKOFF.pause(failures))
        del self._targets[destination]

    async def _ask(self, destination: SocketAddress, version: str) -> dict[str, Any]:
        stream = await self._dial()
        try:
            target = f"/endpoints/{destination.ip}/{destination.port}?after={version}"
            await stream.write(f"GET {target} HTTP/1.1\r\nHost: {self._server}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while data := await stream.read():
                answer += data
        finally:
            stream.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if head.split()[1:2] != [b"200"]:
            raise ValueError(head[:100])
        found: dict[str, Any] = json.loads(body)
        return found


def _endpoint(data: dict[str, Any]) -> Endpoint:
    address = SocketAddress(ipaddress.ip_address(data["ip"]), data["port"])
    return Endpoint(address, data["identity"], data["server_name"], data["name"], data["backend"], data["weight"])
