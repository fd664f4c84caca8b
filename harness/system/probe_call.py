"""One readiness check of the application, by kind; the answer is None when it passes, else why not."""

from __future__ import annotations

import asyncio

import httpx

from harness import tasks
from harness.messages import HttpGet, Probe, TcpSocket


class Checker:
    def __init__(self) -> None:
        # As the kubelet does: no certificate check, no redirects followed, no connection kept, no proxy from the environment.
        self._client = httpx.AsyncClient(
            verify=False,  # noqa: S501
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            headers={"user-agent": "meshexp-probe"},
        )

    async def check(self, probe: Probe) -> str | None:
        """Never raises: whatever goes wrong is the reason. Ends within the probe's timeout."""
        found = await tasks.within(probe.timeout_seconds, self._once(probe))
        return f"no answer within {probe.timeout_seconds:g} s" if found is None else found or None

    async def _once(self, probe: Probe) -> str:
        """Why it failed; empty when it passed."""
        if probe.http_get is not None:
            return await self._http_get(probe.http_get)
        if probe.tcp_socket is not None:
            return await _tcp_socket(probe.tcp_socket)
        return "this version runs no probes of this kind"

    async def _http_get(self, http_get: HttpGet) -> str:
        host = f"[{http_get.host}]" if ":" in http_get.host else http_get.host
        url = f"{http_get.scheme.lower()}://{host}:{http_get.port}/{http_get.path.lstrip('/')}"
        try:
            response = await self._client.get(url, headers={h.name: h.value for h in http_get.http_headers}, timeout=None)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return str(error) or type(error).__name__
        return "" if 200 <= response.status_code < 400 else f"GET {http_get.path} answered {response.status_code}"


async def _tcp_socket(target: TcpSocket) -> str:
    try:
        _, writer = await asyncio.open_connection(target.host, target.port)
    except OSError as error:
        return f"{target.host}:{target.port}: {error.strerror or error}"
    writer.close()
    return ""
