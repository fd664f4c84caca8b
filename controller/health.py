"""/healthz, /readyz and /metrics, without TLS and apart from the machines' port."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from controller.connection import Connection
from controller.metrics import Metrics
from controller.store import Gap
from controller.upkeep import Upkeep
from harness import terminal


class Health:
    """`listening`: whether machines are served. A lost API server is no reason to lose the machines too: it stays ready.

    `gaps`: what of the store cannot be used. A kind that is missing is told of, and changes nothing else, for the same reason.
    """

    def __init__(self, upkeep: Upkeep, metrics: Metrics, gaps: Callable[[], tuple[Gap, ...]]) -> None:
        self._upkeep = upkeep
        self._metrics = metrics
        self._gaps = gaps
        self.listening = False

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.end()  # until the next request
        return self._answer(request)

    def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.path == "/healthz":
            return web.Response(text="ok\n")
        if request.path == "/readyz":
            ready = self.listening and self._upkeep.ready.is_set()
            missing = sorted({terminal.harmless(f"missing: {gap.kind}: {gap.why}") for gap in self._gaps() if not gap.name})
            lines = ["ready" if ready else "not ready", *missing]
            return web.Response(text="".join(f"{line}\n" for line in lines), status=200 if ready else 503)
        if request.path == "/metrics":
            return web.Response(body=self._metrics.render().encode(), headers={"Content-Type": "text/plain; version=0.0.4"})
        return web.Response(status=404, text="/healthz, /readyz, /metrics\n")
