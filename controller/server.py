"""The calls of harness.messages over HTTP with mutual TLS."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.parse
import weakref
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from aiohttp import web

from controller import address_proof, tickets
from controller.admission import EndedError, RefusedError
from controller.anchors import Anchors
from controller.connection import ANSWER_SECONDS, Connection, error_response
from controller.dial_back import DialBack
from controller.joins import Joins
from controller.metrics import Metrics
from controller.model import Key
from controller.peer import Peer
from controller.registry import Caller, Registry
from controller.store import ConflictError, NotFoundError
from harness import json_text
from harness.decode import decode, encode
from harness.errors import ConfigError, TemporaryError
from harness.messages import HOLDER_HEADER, MAX_BODY_BYTES, SECRET_HEADER, Registration, RegistrationRequest, StateReport
from harness.values import SpiffeId, peer_text

log = structlog.get_logger()
T = TypeVar("T")
_WORKLOAD = r"/v1/workloads/(?P<namespace>[a-z0-9-]{1,63})/(?P<name>[a-z0-9-]{1,63})"
_BODY_SECONDS = ANSWER_SECONDS / 2
_MOST_VALUES = 1000
"""Of a body. A registration has some 30."""


class Api:
    """The handler of a web.Server whose connections are of class Connection. `anchors`: those in force."""

    def __init__(
        self, registry: Registry, metrics: Metrics, hold_seconds: float, anchors: Callable[[], Anchors], dial_back: DialBack
    ) -> None:
        self._registry, self._metrics, self._hold_seconds, self._anchors = registry, metrics, hold_seconds, anchors
        self._joins = Joins(registry, dial_back.own)
        self._dial_back = dial_back
        self._turns: weakref.WeakValueDictionary[SpiffeId, asyncio.Lock] = weakref.WeakValueDictionary()
        self._calls: tuple[tuple[str, str, re.Pattern[str], _Call], ...] = (
            ("look", "GET", re.compile("/v1"), self._look),
            ("register", "POST", re.compile("/v1/workloads"), self._register),
            ("hold", "GET", re.compile(_WORKLOAD), self._hold),
            ("state", "POST", re.compile(_WORKLOAD + "/state"), self._state),
            ("reach", "POST", re.compile(_WORKLOAD + "/reach"), self._reach),
            ("leave", "DELETE", re.compile(_WORKLOAD), self._leave),
        )

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        if not isinstance(connection, Connection):
            raise TypeError("this handler needs its own kind of connection")
        connection.begin()
        name, call, target = self._find(request)
        try:
            peer = connection.peer(self._registry.fleet.clock.wall())
            self._check(peer)
            response, code = await call(request, peer, target), "ok"
            if not self._anchors().count(peer.issuers, self._registry.fleet.clock.wall()):
                response.force_close()
        except EndedError as end:
            response, code = error_response(end.code, end.message, end.hint), "ended"
        except RefusedError as refusal:
            response, code = error_response(refusal.code, refusal.message, refusal.hint), refusal.code
            if code == "unauthenticated":
                response.force_close()
        except ConfigError as error:
            response, code = error_response("malformed", "; ".join(map(str, error.faults[:10]))), "malformed"
        except (TemporaryError, NotFoundError, ConflictError) as error:  # the last two: a kind is gone, or another was faster
            log.warning("call failed", call=name, error=error.message)
            response, code = error_response("unavailable", error.message, error.hint or "try again"), "unavailable"
        finally:
            connection.end()
        if code not in ("ok", "ended", "unavailable"):
            # The code and the place only: a message may quote what was sent.
            workload = str(target) if target else None
            log.warning("refused", call=name, code=code, workload=workload, peer=peer_text(request.remote or ""))
        self._metrics.answered(name, code)
        return response

    def _check(self, peer: Peer) -> None:
        """What was true at the handshake may be so no more. Raises RefusedError."""
        wall = self._registry.fleet.clock.wall()
        peer.check_time(wall)
        self._anchors().check(peer.issuers, wall)
        tickets.check_pins(self._registry.fleet.pins, peer.unpinned, peer.identity)

    def _find(self, request: web.BaseRequest) -> tuple[str, _Call, Key | None]:
        for name, method, pattern, call in self._calls:
            match = pattern.fullmatch(request.rel_url.raw_path)
            if match and method == request.method:
                groups = match.groupdict()
                return name, call, Key(groups["namespace"], groups["name"]) if groups else None
        return "unknown", _unknown, None

    async def _look(self, request: web.BaseRequest, peer: Peer, target: Key | None) -> web.Response:
        """For `meshexp check`: that the controller takes this certificate, and what time it has."""
        return web.Response(status=204)

    async def _register(self, request: web.BaseRequest, peer: Peer, target: Key | None) -> web.Response:
        message = await self._message(request, peer, RegistrationRequest)
        registration, new = await self._joins.register(peer.identity, message, address_proof.source_of(request.remote))
        return self._told(registration, 201 if new else 200)

    async def _hold(self, request: web.BaseRequest, peer: Peer, target: Key | None) -> web.Response:
        left = peer.valid_until - self._registry.fleet.clock.wall()
        # Read here, and not by the URL itself: that would keep what it has read, 1 KiB, as long as the answer is held.
        after = dict(urllib.parse.parse_qsl(request.rel_url.raw_query_string)).get("after", "")
        registration = await self._registry.hold(_caller(request, peer), _given(target), after, min(self._hold_seconds, left))
        self._registry.fleet.certified(_given(target), peer.expires)
        return self._told(registration, 200)

    def _told(self, registration: Registration, status: int) -> web.Response:
        return web.Response(status=status, body=self._registry.body(registration), content_type="application/json")

    async def _state(self, request: web.BaseRequest, peer: Peer, target: Key | None) -> web.Response:
        report = await self._message(request, peer, StateReport)
        await self._registry.report(_caller(request, peer), _given(target), report)
        self._registry.fleet.certified(_given(target), peer.expires)
        return web.Response(status=204)

    async def _reach(self, request: web.BaseRequest, peer: Peer, target: Key | None) -> web.Response:
        """For `meshexp check`: whether peers' packets get there."""
        found = await self._dial_back.reach(_caller(request, peer), _given(target))
        return web.Response(body=json.dumps(encode(found)).encode(), content_type="application/json")

    async def _leave(self, request: web.BaseRequest, peer: Peer, target: Key | None) -> web.Response:
        await self._registry.leave(_caller(request, peer), _given(target))
        return web.Response(status=204)

    async def _message(self, request: web.BaseRequest, peer: Peer, cls: type[T]) -> T:
        """To read a message holds up everybody else's, so one SPIFFE ID has one read at a time, and others come in between.

        Nobody is refused for that: all machines of a group may have the same SPIFFE ID.
        """
        data = await _read(request)
        async with self._turns.setdefault(peer.identity, asyncio.Lock()):
            await asyncio.sleep(0)
            return message(data, cls)


_Call = Callable[[web.BaseRequest, Peer, Key | None], Awaitable[web.Response]]


async def _unknown(request: web.BaseRequest, peer: Peer, target: Key | None) -> web.Response:
    raise RefusedError("unknown-call", f"there is no {request.method[:16]} of this path")


def _given(target: Key | None) -> Key:
    if target is None:
        raise RefusedError("unknown-call", "this call names a workload")
    return target


def _caller(request: web.BaseRequest, peer: Peer) -> Caller:
    return Caller(peer.identity, _header(request, SECRET_HEADER), _header(request, HOLDER_HEADER) or "")


def _header(request: web.BaseRequest, name: str) -> str | None:
    given = request.headers.getall(name, [])
    if len(given) > 1:
        raise RefusedError("malformed", f"the header {name} occurs twice")
    return given[0] if given else None


def message(data: bytes, cls: type[T]) -> T:
    """What a machine sent as a `cls`. Raises RefusedError and ConfigError."""
    try:
        value = json_text.loads(data, most_values=_MOST_VALUES)
    except ValueError as error:
        raise RefusedError("malformed", f"the body cannot be used: {error}"[:200]) from None
    return decode(cls, value, source="body", lenient=True)


async def _read(request: web.BaseRequest) -> bytes:
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise RefusedError("too-large", f"a body may have {MAX_BODY_BYTES} bytes")
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise RefusedError("too-large", f"a body may have {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise RefusedError("too-slow", f"the body did not arrive within {_BODY_SECONDS:.0f} s") from None
    except web.RequestPayloadError:
        raise RefusedError("malformed", "the body ended early or is not framed as HTTP says") from None
    return body
