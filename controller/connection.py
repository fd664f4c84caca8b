"""One connection of the server: what it may cost, and how long it may take. HTTP itself is aiohttp's."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from typing import Any

import structlog
from aiohttp import web

from controller.admission import RefusedError
from controller.peer import Peer, peer_of
from harness.decode import encode
from harness.messages import CODES, MAX_BODY_BYTES, ErrorBody
from harness.system import dead_peer

log = structlog.get_logger()

HEADER_SECONDS = 10.0
"""From the TLS handshake to the end of the first request's headers."""
IDLE_SECONDS = 120.0
"""Between requests, the next one's headers included."""
ANSWER_SECONDS = 20.0
"""Beyond the hold: for the body to arrive and the answer to be made."""
_DER = 2  # _ssl.ENCODING_DER
REQUEST_BYTES = 2 * MAX_BODY_BYTES
"""Headers, body, framing, and whatever is sent ahead of an answer."""

# aiohttp logs the offending bytes of a bad request, which may hold a secret.
QUIET = logging.getLogger("controller.aiohttp")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


def error_response(code: str, message: str, hint: str = "") -> web.Response:
    body = json.dumps(encode(ErrorBody(code, message, hint))).encode()
    return web.Response(status=CODES[code], body=body, content_type="application/json")


def _chain(tls: ssl.SSLObject, kind: str) -> tuple[bytes, ...]:
    """The `verified` or the `unverified` chain above the leaf, as DER. Before Python 3.13 only the object within has it."""
    inner: Any = getattr(tls, "_sslobj", tls)
    chain = [c if isinstance(c, bytes) else c.public_bytes(_DER) for c in getattr(inner, f"get_{kind}_chain")() or ()]
    return tuple(chain[1:])


class Room:
    """The connections of one listener. When there are more than `most`, the oldest ends.

    So the newest is always answered, such as a kubelet's probe.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside: dict[Connection, None] = {}

    def enter(self, connection: Connection) -> None:
        if len(self._inside) >= self._most:
            oldest = next(iter(self._inside))
            del self._inside[oldest]  # at once: it hears of its end only later
            oldest.abort()
        self._inside[connection] = None

    def leave(self, connection: Connection) -> None:
        self._inside.pop(connection, None)


class Connection(web.RequestHandler):
    """A subclass: aiohttp has no other place for a deadline on headers, a bound on bytes, or the form of its own errors."""

    def __init__(self, server: web.Server, hold_seconds: float, room: Room | None = None) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            logger=QUIET,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's way to have none
            keepalive_timeout=IDLE_SECONDS,
            auto_decompress=False,
            lingering_time=1.0,
        )
        self._busy_seconds = hold_seconds + ANSWER_SECONDS
        self._room = room
        self._received = 0
        self._peer: Peer | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        dead_peer.watch(transport.get_extra_info("socket"))
        self._due_in(HEADER_SECONDS)
        if self._room is not None:
            self._room.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._room is not None:
            self._room.leave(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > REQUEST_BYTES:
            self.abort()
            return
        super().data_received(data)

    def begin(self) -> None:
        """The headers of a request are here."""
        self._due_in(self._busy_seconds)

    def end(self) -> None:
        """Its answer is about to be written."""
        self._received = 0
        self._due_in(IDLE_SECONDS)

    def abort(self) -> None:
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()

    def peer(self, wall: float) -> Peer:
        """From the verified certificate, never from a header. Raises RefusedError."""
        if self._peer is None:
            transport = self.transport
            tls = transport.get_extra_info("ssl_object") if transport else None
            if transport is None or tls is None or not (certificate := tls.getpeercert(binary_form=True)):
                raise RefusedError("unauthenticated", "a client certificate is required")
            self._peer = peer_of(certificate, _chain(tls, "verified"), _chain(tls, "unverified"), wall)
            # asyncio keeps it once more, decoded, as long as the connection lasts: 1.3 KiB.
            transport.get_extra_info("peercert").clear()
        return self._peer

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """aiohttp's answer to what is not HTTP, and to our own faults."""
        if status >= 500:
            log.error("internal fault", exc_info=exc)
            response = error_response("internal", "the controller has a fault; see its log")
        else:
            response = error_response("malformed", "the request is not valid HTTP")
        response.force_close()
        return response

    def _due_in(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self.abort)
