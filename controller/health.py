"""/healthz, /readyz and /metrics, without TLS and apart from the machines' port."""

from __future__ import annotations

from aiohttp import web

from controller.metrics import Metrics
from controller.upkeep import Upkeep


class Health:
    """`listening`: whether machines are served. A lost API server is no reason to lose the machines too: it stays ready."""

    def __init__(self, upkeep: Upkeep, metrics: Metrics) -> None:
        self._upkeep, self._metrics = upkeep, metrics
        self.listening = False

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/healthz":
            return web.Response(text="ok\n")
        if request.path == "/readyz":
            ready = self.listening and self._upkeep.ready.is_set()
            return web.Response(text="ready\n" if ready else "not ready\n", status=200 if ready else 503)
        if request.path == "/metrics":
            return web.Response(body=self._metrics.render().encode(), headers={"Content-Type": "text/plain; version=0.0.4"})
        return web.Response(status=404, text="/healthz, /readyz, /metrics\n")
