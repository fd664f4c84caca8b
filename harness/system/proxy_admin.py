"""The proxy's admin port: what its metrics say of its certificate, and what it says of itself."""

from __future__ import annotations

import re

import httpx

_LATEST = 253_402_300_799.0  # the end of the year 9999, which X.509 uses for "never"

_EXPIRY = re.compile(r"^control_identity_cert_expiration_timestamp_seconds(?:\{[^}]*\})? ([0-9.eE+]+)", re.MULTILINE)


class LoopbackAdmin:
    def __init__(self) -> None:
        # Kept for good: making a client costs more processor time than a request.
        self._client = httpx.AsyncClient(verify=False, trust_env=False, timeout=1.0)  # noqa: S501 — plain http

    async def certificate_expiry(self, port: int) -> float:
        """Epoch seconds when the proxy's certificate ends; 0 without one or without an answer."""
        try:
            response = await self._client.get(f"http://127.0.0.1:{port}/metrics")
        except httpx.HTTPError:
            return 0.0
        found = _EXPIRY.search(response.text) if response.status_code == 200 else None
        return _epoch(found[1]) if found else 0.0

    async def says_ready(self, port: int) -> bool:
        try:
            return (await self._client.get(f"http://127.0.0.1:{port}/ready")).status_code == 200
        except httpx.HTTPError:
            return False


def _epoch(text: str) -> float:
    """Epoch seconds as the proxy prints them; 0 for what is no number."""
    try:
        return min(float(text), _LATEST)
    except ValueError:
        return 0.0
