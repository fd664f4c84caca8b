"""Calls to the API server: errors translated, writes no faster than agreed, watches line by line."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

import httpx

from controller.kubernetes.access import Access
from controller.store import ConflictError, GoneError, NotFoundError
from harness.errors import TemporaryError

MANAGER = "meshexp-controller"
APPLY = "application/apply-patch+yaml"
WATCH_SECONDS = 300
"""The server ends a watch then, and it is resumed: a connection that died unseen is noticed."""
_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 20.0
_ATTEMPTS = 3
_AT_ONCE = 32
"""Calls under way; more only queue, here or in the server (whose own limit for a client is about as much)."""


class Client:
    def __init__(self, access: Access, *, writes_per_second: float = 200.0) -> None:
        self.access = access
        timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=_AT_ONCE)
        self._http = httpx.AsyncClient(
            base_url=access.server, verify=access.context, timeout=timeout, limits=limits, trust_env=False
        )
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._pace = _Pace(writes_per_second)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def get(self, path: str, **query: str) -> Any:
        """Raises NotFoundError, GoneError or TemporaryError."""
        return await self._call("GET", path, query)

    async def send(self, method: str, path: str, body: Any, *, form: str = "application/json", **query: str) -> Any:
        """Raises NotFoundError, ConflictError, or TemporaryError, also when the server calls the object invalid."""
        await self._pace.turn()
        return await self._call(method, path, query, json.dumps(body).encode(), form)

    async def watch(self, path: str, **query: str) -> AsyncIterator[Any]:
        """Each event of one watch, until the server ends it. Raises GoneError or TemporaryError."""
        timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS, read=WATCH_SECONDS + 15.0)
        query |= {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        try:
            async with self._http.stream("GET", path, params=query, headers=self._headers(), timeout=timeout) as response:
                if not response.is_success:
                    await response.aread()
                    raise _refusal(response)
                async for line in response.aiter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _failure(int(event["object"].get("code", 500)), str(event["object"].get("message", "")))
                    yield event
        except (httpx.HTTPError, ssl.SSLError, ValueError) as error:
            raise _lost(error) from None

    async def _call(self, method: str, path: str, query: Mapping[str, str], data: bytes | None = None, form: str = "") -> Any:
        for attempt in range(_ATTEMPTS):
            headers = self._headers() | ({"Content-Type": form} if form else {})
            try:
                async with self._slots:
                    response = await self._http.request(method, path, params=query, content=data, headers=headers)
                wait = response.headers.get("retry-after")
                if response.is_success:
                    return response.json()
            except (httpx.HTTPError, ssl.SSLError, ValueError) as error:
                raise _lost(error) from None
            if wait is None or not wait.isdigit() or attempt == _ATTEMPTS - 1:
                break
            await asyncio.sleep(min(float(wait), 5.0))
        raise _refusal(response)

    def _headers(self) -> dict[str, str]:
        token = self.access.token()
        return {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})


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


def _lost(error: Exception) -> TemporaryError:
    return TemporaryError(f"the API server does not answer: {str(error) or type(error).__name__}")


def _refusal(response: httpx.Response) -> Exception:
    try:
        message = str(response.json().get("message", ""))
    except (ValueError, AttributeError):
        message = response.text[:200]
    return _failure(response.status_code, message)


def _failure(code: int, message: str) -> Exception:
    kinds = {404: NotFoundError, 409: ConflictError, 410: GoneError}
    if code in kinds:
        return kinds[code](message)
    hint = "are the controller's role and its bindings applied?" if code in (401, 403) else ""
    return TemporaryError(f"the API server answers {code}: {message}", hint)
