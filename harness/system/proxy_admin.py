"""The proxy's admin port: what its metrics say of its certificate, and what it says of itself."""

from __future__ import annotations

import re

import httpx

from harness import tasks
from harness.system import bodies

MOST_BYTES, MOST_SECONDS = 16 << 20, 3.0
"""Of all metrics: a proxy with thousands of peers has some MiB. No more than a line of them is held."""
_LATEST = 253_402_300_799.0  # the end of the year 9999, which X.509 uses for "never"

_EXPIRY = re.compile(rb"(?m)^control_identity_cert_expiration_timestamp_seconds(?:\{[^}\n]*\})? ([0-9.eE+]{1,40})")


class LoopbackAdmin:
    """Whatever answers there, the proxy's user or another, may be hostile: each answer has a bound on bytes and time."""

    def __init__(self) -> None:
        # Kept for good: making a client costs more processor time than a request.
        self._client = httpx.AsyncClient(
            verify=False,  # noqa: S501 — plain http
            trust_env=False,
            timeout=1.0,
            headers=bodies.AS_IT_IS,
        )

    async def certificate_expiry(self, port: int) -> float:
        """Epoch seconds when the proxy's certificate ends; 0 without one or without an answer."""
        return await tasks.within(MOST_SECONDS, self._expiry(port)) or 0.0

    async def says_ready(self, port: int) -> bool:
        return bool(await tasks.within(MOST_SECONDS, self._ready(port)))

    async def _expiry(self, port: int) -> float:
        try:
            async with self._client.stream("GET", f"http://127.0.0.1:{port}/metrics") as response:
                if response.status_code != 200:
                    return 0.0
                found = await bodies.search(response, _EXPIRY, MOST_BYTES)
        except httpx.HTTPError:
            return 0.0
        return _epoch(found[1]) if found else 0.0

    async def _ready(self, port: int) -> bool:
        try:
            async with self._client.stream("GET", f"http://127.0.0.1:{port}/ready") as response:
                return response.status_code == 200
        except httpx.HTTPError:
            return False


def _epoch(text: bytes) -> float:
    """Epoch seconds as the proxy prints them; 0 for what is no number."""
    try:
        return min(float(text), _LATEST)
    except ValueError:
        return 0.0
