"""Every machine on one page, live, to look at and nothing else. Three files of our own, and one stream of events.

It has no login: whoever reaches it may read it. So it is on loopback, and in a cluster `kubectl port-forward` leads there, which
Kubernetes' own rights guard.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from controller import model, roll
from controller.fleet import Fleet, Record
from controller.model import Key
from controller.replicas import Replicas

LOOK_SECONDS, ALIVE_SECONDS, WRITE_SECONDS = 1.0, 15.0, 30.0
MOST_VIEWERS = 16
_FOLDER = Path(__file__).with_name("page")
_FILES = {
    "/": ("text/html", (_FOLDER / "fleet.html").read_bytes()),
    "/fleet.css": ("text/css", (_FOLDER / "fleet.css").read_bytes()),
    "/fleet.js": ("text/javascript", (_FOLDER / "fleet.js").read_bytes()),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FIELDS = tuple(field.name for field in dataclasses.fields(roll.Machine))
"""All are text, or JSON as they are: harness.decode.encode takes three times as long as all the rest."""
Rows = Mapping[str, str]
"""Each machine as JSON, by namespace/name."""


class FleetPage:
    """The handler of a web.Server."""

    def __init__(self, fleet: Fleet, replicas: Replicas) -> None:
        self._fleet, self._replicas = fleet, replicas
        self._rows: Rows = {}
        self._looked = float("-inf")
        self._viewers = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if not _here(request.headers.get("Host", "")):
            return web.Response(status=421, text="ask by address or as localhost\n", headers=_HEADERS)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="this page is only read\n", headers=_HEADERS)
        if request.path == "/events" and request.method == "GET":
            return await self._events(request)
        if request.path in _FILES:
            kind, body = _FILES[request.path]
            return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)
        return web.Response(status=404, text="the page is at /\n", headers=_HEADERS)

    def rows(self) -> Rows:
        """For all viewers together they are made once a second, and only while somebody looks."""
        clock = self._fleet.clock
        if clock.now() - self._looked >= LOOK_SECONDS:
            records = self._fleet.records
            found = roll.machines((record.workload for record in records.values()), self._replicas.leases(), clock.wall())
            self._rows = {str(key): _row(one, records[key]) for one in found if (key := Key(one.namespace, one.name)) in records}
            self._looked = clock.now()
        return self._rows

    async def _events(self, request: web.BaseRequest) -> web.StreamResponse:
        """All machines, then what changes, without end; who reads too slowly is dropped, and comes again by itself."""
        if self._viewers >= MOST_VIEWERS:
            return web.Response(status=503, text="too many look at the same time\n", headers=_HEADERS)
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream; charset=utf-8"})
        self._viewers += 1
        try:
            await response.prepare(request)
            shown: Rows | None = None
            written = 0.0
            while True:
                rows, now = self.rows(), self._fleet.clock.now()
                if (event := self._event(shown, rows)) or now - written >= ALIVE_SECONDS:
                    async with asyncio.timeout(WRITE_SECONDS):
                        await response.write(event or b":\n\n")
                    written = now
                shown = rows
                await self._fleet.clock.sleep(LOOK_SECONDS)
        except OSError:  # also TimeoutError
            response.force_close()
        finally:
            self._viewers -= 1
        return response

    def _event(self, shown: Rows | None, rows: Rows) -> bytes:
        """Empty when nothing has changed."""
        before: Rows = shown or {}
        fresh = [row for key, row in rows.items() if before.get(key) != row]
        gone = [key for key in before if key not in rows]
        if shown is not None and not fresh and not gone:
            return b""
        head = {"all": shown is None, "now": self._fleet.clock.wall(), "gone": gone}
        return f'data: {json.dumps(head)[:-1]}, "rows": [{",".join(fresh)}]}}\n\n'.encode()


def _row(one: roll.Machine, record: Record) -> str:
    """When a machine that is heard was heard last is now: told each time, every row would change every two seconds.

    The reason that it gave last goes before the one that is written, which changes only with readiness.
    """
    until = model.time(record.certificate_until) if record.certificate_until else ""
    fresh: dict[str, str] = {} if one.heard_by else {"last_seen": one.last_seen}
    if (said := record.report) is not None and one.heard_by and said.ready is one.ready:
        fresh |= {"reason": said.reason.value, "message": said.message}
    row = {**{name: getattr(one, name) for name in _FIELDS}, "last_seen": "", **fresh, "certificate_until": until}
    return json.dumps(row, separators=(",", ":"))


def _here(host: str) -> bool:
    """Whether a browser was sent here on purpose, and not by a name of somebody else's that leads here (DNS rebinding)."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
