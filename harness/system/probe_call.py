"""One readiness check of the application, by kind; the answer is None when it passes, else why not."""

from __future__ import annotations

import asyncio
import ssl

import httpx

from harness import phrases, tasks
from harness.probe import Grpc, HttpGet, TcpSocket
from harness.specs import Check
from harness.system import bodies, came_back, probe_exec, probe_grpc

MOST_BYTES = 10 << 10
"""Of an answer, as the kubelet: the status decides, and what follows in the body is left."""

MOST_REASON = 200  # characters


class Checker:
    def __init__(self) -> None:
        # As the kubelet does: no certificate check, no redirects followed, no connection kept, no proxy from the environment.
        self._client = httpx.AsyncClient(
            verify=False,  # noqa: S501
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            headers={"user-agent": "meshexp-probe", **bodies.AS_IT_IS},
        )

    async def check(self, wanted: Check) -> str | None:
        """What came back, unless it passes. Never raises. Ends within the probe's timeout."""
        seconds = wanted.probe.timeout_seconds
        try:
            found = await tasks.within(seconds, self._once(wanted))
        except ValueError as error:  # a name, a header or a path that cannot be sent; UnicodeError is one
            return f"{phrases.NOT_SENT}: {error}"[:MOST_REASON]
        return f"{phrases.NO_ANSWER} within {seconds:g} s" if found is None else found or None

    async def _once(self, wanted: Check) -> str:
        """Why it failed; empty when it passed."""
        probe = wanted.probe
        if probe.http_get is not None:
            return await self._http_get(probe.http_get)
        if probe.tcp_socket is not None:
            return await _tcp_socket(probe.tcp_socket)
        if probe.grpc is not None:
            return await _grpc(probe.grpc)
        return await _exec(probe.exec_.name if probe.exec_ else "", wanted)

    async def _http_get(self, http_get: HttpGet) -> str:
        headers = {h.name: h.value for h in http_get.http_headers}
        try:
            async with self._client.stream("GET", http_get.url, headers=headers, timeout=None) as response:
                await bodies.beginning(response, MOST_BYTES)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:  # Debian's httpx lets the last one through
            return came_back.words(error)
        return "" if 200 <= response.status_code < 400 else f"HTTP {response.status_code}"


async def _grpc(target: Grpc) -> str:
    try:
        return await probe_grpc.check(target)
    except OSError as error:
        return came_back.words(error)


async def _exec(name: str, wanted: Check) -> str:
    if wanted.command is None or wanted.user is None:
        return f"this machine {phrases.NO_COMMAND} of that name (probes.commands.{name})"
    try:
        return await probe_exec.check(wanted.command, wanted.user)
    except OSError as error:
        return f"{wanted.command[0]} {phrases.NOT_STARTED}: {came_back.words(error)}"


async def _tcp_socket(target: TcpSocket) -> str:
    try:
        _, writer = await asyncio.open_connection(target.host, target.port)
    except OSError as error:
        return came_back.words(error)
    writer.close()
    return ""
