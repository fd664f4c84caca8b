"""Calls to the API server: errors translated, writes no faster than agreed, watches line by line.

On aiohttp, which serves the machines too: a call costs a quarter of the processor time that it costs with httpx.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

import aiohttp
from multidict import CIMultiDict

from controller.kubernetes import foreign
from controller.kubernetes.access import Access
from controller.store import ConflictError, GoneError, InvalidCallError, NotFoundError, OversizeError, RefusedCallError
from harness.errors import HarnessError, TemporaryError

MANAGER = "meshexp-controller"
APPLY = "application/apply-patch+yaml"
WATCH_SECONDS = 300
"""The server ends a watch then, and it is resumed: a connection that died unseen is noticed."""
_CONNECT_SECONDS, _ANSWER_SECONDS, _QUIET_SECONDS = 5.0, 10.0, 15.0
_CLOSE_SECONDS = 0.25
"""What aiohttp's documentation asks for: its TLS connections end only after their session."""
_ATTEMPTS = 3
_AT_ONCE = 32
"""Calls under way; more only queue, here or in the server (whose own limit for a client is about as much)."""
_INVALID = frozenset((400, 405, 406, 413, 415, 422))
"""The server will not take this call as it is, however often it is made."""
_REFUSED = {
    401: "it does not know these credentials: `kubectl auth whoami` shows who they are for",
    403: "`kubectl auth can-i --list` shows what this user may do; the controller's rights are its role and bindings",
}
_FAILURES = (aiohttp.ClientError, OSError, ValueError)  # a timeout is an OSError


class Client:
    def __init__(self, access: Access, *, writes_per_second: float = 200.0) -> None:
        self.access = access
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._ahead = 0.0
        self._pace = _Pace(writes_per_second)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(_CLOSE_SECONDS)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def server_wall(self) -> float:
        """Seconds since the epoch by the API server's clock, as its last answer told it; by our own before that."""
        return time.time() + self._ahead

    async def get(self, path: str, **query: str) -> Any:
        """Raises NotFoundError, GoneError, OversizeError, RefusedCallError or TemporaryError."""
        return await self._call("GET", path, query)

    async def send(self, method: str, path: str, body: Any, *, form: str = "application/json", **query: str) -> Any:
        """Raises NotFoundError, ConflictError, InvalidCallError, RefusedCallError or TemporaryError."""
        await self._pace.turn()
        return await self._call(method, path, query, json.dumps(body).encode(), form)

    async def watch(self, path: str, **query: str) -> AsyncIterator[Any]:
        """Each event of one watch, until the server ends it. Raises GoneError or TemporaryError."""
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_read=WATCH_SECONDS + _QUIET_SECONDS)
        query |= {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        try:
            async with self._http.get(path, params=query, headers=self._headers(), timeout=timeout) as response:
                if response.status != 200:
                    raise _refusal(response.status, await _body(response))
                lines = foreign.Lines()
                async for chunk in response.content.iter_any():
                    for line in lines.feed(chunk):
                        yield _event(line)
        except _FAILURES as error:
            raise _lost(error) from None

    async def _call(self, method: str, path: str, query: Mapping[str, str], data: bytes | None = None, form: str = "") -> Any:
        for attempt in range(_ATTEMPTS):
            headers = self._headers()
            if form:
                headers["Content-Type"] = form
            try:
                async with self._slots, self._http.request(method, path, params=query, data=data, headers=headers) as response:
                    answer = await _body(response)
                self._compare_clocks(response.headers.get("Date", ""))
                if response.ok:
                    return foreign.parse(answer)
            except _FAILURES as error:
                raise _lost(error) from None
            wait = response.headers.get("Retry-After", "")
            if not (wait.isascii() and wait.isdecimal()) or attempt == _ATTEMPTS - 1:
                break
            await asyncio.sleep(min(float(wait), 5.0))
        raise _refusal(response.status, answer)

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Watches are connections too, and count against no limit but the slots of calls.
            self._session = aiohttp.ClientSession(
                self.access.server,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(ssl=self.access.context, limit=0),
                timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            )
        return self._session

    def _headers(self) -> CIMultiDict[str]:
        token, impersonated = self.access.token(), self.access.impersonated
        headers = CIMultiDict({"Accept": "application/json"})
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if impersonated.user:
            headers["Impersonate-User"] = impersonated.user
        for group in impersonated.groups:
            headers.add("Impersonate-Group", group)
        return headers

    def _compare_clocks(self, date: str) -> None:
        try:
            self._ahead = email.utils.parsedate_to_datetime(date).timestamp() - time.time()
        except (ValueError, OverflowError):
            return  # none, or one that is no date: what was known stays


class _Pace:
    """So many turns a second, and a second's worth at once."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1.0 / per_second
        self._next = time.monotonic()

    async def turn(self) -> None:
        now = time.monotonic()
        self._next = max(self._next, now - 1.0) + self._gap
        if self._next > now:
            await asyncio.sleep(self._next - now)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Raises OversizeError."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > foreign.MOST_BYTES:
            raise OversizeError(f"the API server's answer has more than {foreign.MOST_BYTES} bytes")
    return bytes(body)


def _event(line: bytes) -> Any:
    """One of a watch. Raises ValueError for what is none, and what the server tells of its own error."""
    event = foreign.parse(line)
    if not isinstance(event, dict) or not isinstance(event.get("type"), str) or not isinstance(event.get("object"), dict):
        raise ValueError("a line of the watch is not an event")
    if event["type"] == "ERROR":
        code = event["object"].get("code")
        raise _failure(code if isinstance(code, int) else 500, str(event["object"].get("message", "")))
    return event


def _lost(error: Exception) -> TemporaryError:
    return TemporaryError(f"the API server does not answer: {str(error) or type(error).__name__}")


def _refusal(status: int, body: bytes) -> HarnessError:
    try:
        message = str(foreign.parse(body).get("message", ""))
    except (ValueError, AttributeError):
        message = body[:200].decode(errors="replace")
    return _failure(status, message)


def _failure(code: int, message: str) -> HarnessError:
    kinds = {404: NotFoundError, 409: ConflictError, 410: GoneError}
    if code in kinds:
        return kinds[code](message)
    text = f"the API server answers {code}: {message}"
    if code in _REFUSED:
        return RefusedCallError(text, _REFUSED[code])
    return InvalidCallError(text) if code in _INVALID else TemporaryError(text)
