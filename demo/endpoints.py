"""Endpoints for the development proxies over HTTP, in place of Linkerd's destination controller; by TLS if it is given.

`GET /endpoints/{ip}/{port}?after=VERSION` is held until the entry's version is another one, or for 30 s:
{"version": "…", "service": "face.faces.svc.cluster.local:80" or null, "endpoints": [{ip, port, …}]}, each as services.Endpoint.
A version is a digest of the content, so that it outlives a restart of this server.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import ssl

from aiohttp import web

from demo import services
from harness.system import listening
from harness.values import HostPort, IPAddress, parse_address, parse_port

HOLD_SECONDS = 30.0


class EndpointServer:
    def __init__(self) -> None:
        self._table: services.Table = {}
        self._changed = asyncio.Event()
        self._stopping = False
        self._runner: web.AppRunner | None = None

    def update(self, objects: services.Objects) -> None:
        """Takes the present objects, and answers the held requests that they concern."""
        self._table = services.table(objects, self._table)
        self._wake()

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        application = web.Application()
        application.router.add_get("/endpoints/{ip}/{port}", self._answer)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        for one in await listening.listen(HostPort(host, port), "endpoints"):
            await web.SockSite(self._runner, one, ssl_context=tls).start()

    async def stop(self) -> None:
        self._stopping = True
        self._wake()
        if self._runner is not None:
            await self._runner.cleanup()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            key = parse_address(request.match_info["ip"]), parse_port(request.match_info["port"])
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HOLD_SECONDS
        body, version = self._entry(key)
        while version == request.query.get("after") and not self._stopping and loop.time() < deadline:
            try:
                await asyncio.wait_for(self._changed.wait(), deadline - loop.time())
            except TimeoutError:
                break
            body, version = self._entry(key)
        return web.json_response({"version": version, **body})

    def _entry(self, key: tuple[IPAddress, int]) -> tuple[dict[str, object], str]:
        entry = self._table.get(key, services.NOBODY)
        endpoints = [dataclasses.asdict(endpoint) | {"ip": str(endpoint.ip)} for endpoint in entry.endpoints]
        body: dict[str, object] = {"service": entry.service, "endpoints": endpoints}
        return body, hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]
