"""Connections through the proxy: outbound to a peer by mutual TLS, inbound to the application, and their orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from demo.proxy import metrics, streams
from demo.proxy.discovery import PATIENCE, Discovery, Endpoint, Target
from demo.proxy.identity import Certified, Identity
from demo.proxy.settings import Settings, SocketAddress
from demo.proxy.streams import Plain, Stream, Tls

_LOG = logging.getLogger(__name__)
CONNECT_TIMEOUT, DETECT_TIMEOUT = 1.0, 10.0  # linkerd2-proxy's defaults: outbound connect, protocol detection
# For the peer's proof. linkerd2-proxy counts it into the connect timeout; a handshake in Python, on a core that others use too,
# takes longer at times, and a connection that breaks for that reason would look like a lost request.
PROOF_TIMEOUT = 3.0
IDLE = 1.0  # seconds without a byte, after which a draining proxy ends a connection that owes no answer
_TLS_HANDSHAKE = 0x16


@dataclass(slots=True, eq=False)
class Flow:
    """`owes`: the last bytes came from the client, so an answer is still to come."""

    task: asyncio.Task[None]
    last: float = 0.0
    owes: bool = True

    def touch(self, owes: bool) -> None:
        self.last, self.owes = asyncio.get_running_loop().time(), owes


class Forwarder:
    def __init__(self, settings: Settings, identity: Identity, counters: metrics.Metrics) -> None:
        self._settings, self._identity, self._metrics = settings, identity, counters
        self._discovery = Discovery(settings.destination, self._dial_destination)
        self._flows: set[Flow] = set()

    async def outbound(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(Plain(reader, writer), self._outbound)

    async def inbound(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(Plain(reader, writer), self._inbound)

    async def drain(self, grace: float) -> None:
        """Ends each connection once it owes no answer and is idle, and all after `grace` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        while self._flows and loop.time() < deadline:
            for flow in self._flows:
                if not flow.owes and loop.time() - flow.last > IDLE:
                    flow.task.cancel()
            await asyncio.sleep(0.05)
        if self._flows:
            _LOG.warning("%d connections were still open after the grace period", len(self._flows))

    async def _serve(self, client: Plain, forward: Callable[[Plain, SocketAddress, Flow], Awaitable[None]]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 — asyncio calls this as a task
        flow = Flow(task)
        self._flows.add(flow)
        try:
            await forward(client, client.original_destination(), flow)
        except OSError as error:
            _LOG.warning("connection of %s ended: %r", client.peer_address(), error)
        finally:
            client.close()
            self._flows.discard(flow)

    async def _outbound(self, client: Plain, destination: SocketAddress, flow: Flow) -> None:
        if destination in self._settings.outbound:
            raise ConnectionRefusedError("not redirected, but made to the proxy itself")
        target = await self._discovery.target(destination)
        labels = {"direction": "outbound", "peer": "dst"}
        if not target.meshed:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                server = await streams.connect(str(destination.ip), destination.port)
            await self._relay(client, server, flow, metrics.labels(**labels, target_addr=destination, **_plaintext()))
            return
        endpoint, peer = await self._dial_any(target)
        target.opened(endpoint)
        try:
            labels |= {"authority": target.service or "", "target_addr": str(endpoint.address)}
            if endpoint.identity:
                proof = {"tls": "true", "server_id": endpoint.identity, "dst_external_workload": endpoint.name}
            else:
                proof = _plaintext() | {"dst_pod": endpoint.name}
            await self._relay(client, peer, flow, metrics.labels(**labels, **proof))
        finally:
            target.closed(endpoint)

    async def _dial_any(self, target: Target) -> tuple[Endpoint, Stream]:
        """TimeoutError when no endpoint has answered within PATIENCE; one that is being dialled then may still answer."""
        loop = asyncio.get_running_loop()
        failed: set[Endpoint] = set()
        until = loop.time() + PATIENCE
        while True:
            endpoint = target.choose(but=failed)
            if endpoint is None:
                if loop.time() >= until:
                    raise TimeoutError(f"no endpoint of {target.service} has answered within {PATIENCE:g} s")
                failed.clear()
                await target.change(0.2)
                continue
            try:
                return endpoint, await self._dial(endpoint)
            except OSError as error:
                _LOG.warning("endpoint %s at %s failed: %r", endpoint.name, endpoint.address, error)
                failed.add(endpoint)

    async def _dial(self, endpoint: Endpoint) -> Stream:
        """A connection to a peer that has proven to be `endpoint.identity`; in plain text where that is empty."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            plain = await streams.connect(str(endpoint.address.ip), endpoint.address.port)
        if not endpoint.identity:
            return plain
        return await self._prove(plain, endpoint.server_name, "URI", endpoint.identity)

    async def _dial_destination(self) -> Stream:
        """A connection to the destination service, by mutual TLS where its name is known."""
        address, name = self._settings.destination, self._settings.destination_name
        async with asyncio.timeout(CONNECT_TIMEOUT):
            plain = await streams.connect(address.host, address.port)
        return plain if name is None else await self._prove(plain, name, "DNS", name)

    async def _prove(self, plain: Plain, server_name: str, kind: str, wanted: str) -> Tls:
        """TLS with a peer whose certificate has exactly the name `wanted` of its kind; else ConnectionRefusedError."""
        try:
            peer = Tls(plain, self._certified().client, server_name)
            async with asyncio.timeout(PROOF_TIMEOUT):
                await peer.handshake()
            if peer.names(kind) != [wanted]:
                raise ConnectionRefusedError(f"the peer is {', '.join(peer.names(kind)) or 'nobody'}, not {wanted}")
        except BaseException:
            plain.close()
            raise
        return peer

    async def _inbound(self, client: Plain, destination: SocketAddress, flow: Flow) -> None:
        if destination.port == self._settings.inbound.port:
            await self._accept(client)  # as Linkerd's: it proves who it is, and goes on with nobody who names no port
            raise ConnectionRefusedError(f"{destination} is the proxy itself")
        labels = {"direction": "inbound", "peer": "src", "target_addr": str(destination)}
        accepted, proof = await self._accept(client)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            server = await streams.connect(str(destination.ip), destination.port)
        await self._relay(accepted, server, flow, metrics.labels(**labels, **proof))

    async def _accept(self, client: Plain) -> tuple[Stream, dict[str, str]]:
        """The stream to read the request from, and what its labels say of the client."""
        with contextlib.suppress(TimeoutError):  # a server that speaks first: its client sends nothing
            async with asyncio.timeout(DETECT_TIMEOUT):
                client.head = await client.read()
        if client.head[:1] != bytes([_TLS_HANDSHAKE]):
            return client, _plaintext()
        accepted = Tls(client, self._certified().server)
        try:
            async with asyncio.timeout(DETECT_TIMEOUT):
                await accepted.handshake()
        except ssl.SSLError as error:
            if error.reason == "CALLBACK_FAILED":  # TLS of the application's own, to another server name
                client.head = accepted.received
                return client, {"tls": "opaque"}
            await accepted.refuse()
            raise
        return accepted, {"tls": "true", "client_id": accepted.peer}

    async def _relay(self, client: Stream, server: Stream, flow: Flow, labels: str) -> None:
        self._metrics.opened(labels)
        _LOG.debug("open %s", labels)
        flow.touch(owes=False)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(client, server, lambda: flow.touch(owes=True)))
                both.create_task(_copy(server, client, lambda: flow.touch(owes=False)))
        except* OSError as broken:
            _LOG.debug("%r: %s", broken.exceptions, labels)
        finally:
            server.close()
            self._metrics.closed(labels)

    def _certified(self) -> Certified:
        if self._identity.current is None:
            raise ConnectionRefusedError("there is no certificate yet")
        return self._identity.current


async def _copy(source: Stream, sink: Stream, note: Callable[[], None]) -> None:
    while data := await source.read():
        note()
        await sink.write(data)
    await sink.end()


def _plaintext() -> dict[str, str]:
    return {"tls": "no_identity", "no_tls_reason": "no_tls_from_remote"}
