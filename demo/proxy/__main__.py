"""`python3 -m demo.proxy`: reads the environment, serves until SIGTERM, drains. Exits as linkerd2-proxy does:

0 after a drain, 64 bad configuration, 1 unusable trust anchors or admin port, 101 when a proxy port is taken.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys

from demo.proxy import identity, settings
from demo.proxy.forwarding import Forwarder
from demo.proxy.metrics import Metrics
from harness.errors import ConfigError

_LOG = logging.getLogger("demo.proxy")
_ADMIN_TIMEOUT = 10.0


def main() -> int:
    try:
        config = settings.parse(os.environ)
    except ConfigError as error:
        for fault in error.faults:
            print(f"ERROR {fault.path}={os.environ.get(fault.path, '')!r} is not valid: {fault.message}", flush=True)
        print(f"Invalid configuration: {'; '.join(map(str, error.faults))}", file=sys.stderr)
        return 64
    _start_log(config.log)
    _LOG.info("development proxy, a stand-in for linkerd2-proxy: for demos only")
    try:
        identity.load_anchors(config.trust_anchors)
        admin = _listen(config.admin)
    except (ssl.SSLError, OSError) as error:
        print(f"Initialization failure: {error}", file=sys.stderr)
        return 1
    try:
        outbound, inbound = [_listen(address) for address in config.outbound], _listen(config.inbound)
    except OSError as error:
        print(f"Failed to bind a proxy listener: {error}", file=sys.stderr)
        return 101
    asyncio.run(_serve(config, outbound, inbound, admin))
    return 0


async def _serve(config: settings.Settings, outbound: list[socket.socket], inbound: socket.socket, admin: socket.socket) -> None:
    """The proxy ports are bound from the start, and served from the first certificate on."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    own = identity.Identity(config)
    counters = Metrics(own)
    forwarder = Forwarder(config, own, counters)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _admin(reader, writer, own, counters)

    await asyncio.start_server(answer, sock=admin)
    own.start()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((stopping, asyncio.create_task(own.certified.wait())), return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        return
    servers = [await asyncio.start_server(forwarder.inbound, sock=inbound, backlog=1024)]
    servers += [await asyncio.start_server(forwarder.outbound, sock=one, backlog=1024) for one in outbound]
    await stopping
    _LOG.info("draining for up to %g s", config.shutdown_grace)
    for server in servers:
        server.close()
    await forwarder.drain(config.shutdown_grace)


async def _admin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, own: identity.Identity, counters: Metrics) -> None:
    try:
        async with asyncio.timeout(_ADMIN_TIMEOUT):
            head = await reader.readuntil(b"\r\n\r\n")
            method, path = head.decode("latin-1").split()[:2]
            status, body = _answer(method, path, own, counters)
            length = len(body.encode())
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}".encode())
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        _LOG.debug("admin request failed: %r", error)
    finally:
        writer.close()


def _answer(method: str, path: str, own: identity.Identity, counters: Metrics) -> tuple[str, str]:
    if method != "GET":
        return "405 Method Not Allowed", ""
    if path == "/live":
        return "200 OK", "live\n"
    if path == "/ready":
        return ("200 OK", "ready\n") if own.certified.is_set() else ("503 Service Unavailable", "not ready\n")
    return ("200 OK", counters.text()) if path == "/metrics" else ("404 Not Found", "")


def _listen(address: settings.SocketAddress) -> socket.socket:
    family = socket.AF_INET if address.ip.version == 4 else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((str(address.ip), address.port))
    listener.listen(1024)
    return listener


def _start_log(levels: str) -> None:
    """Of the filter only the coarse level counts here."""
    level = logging.DEBUG if "debug" in levels or "trace" in levels else logging.INFO
    form = "[%(relativeCreated)9.1fms] %(levelname)5s %(message)s"
    logging.basicConfig(stream=sys.stdout, level=logging.CRITICAL if levels == "off" else level, format=form)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
