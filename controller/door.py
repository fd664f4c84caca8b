"""Who may wait for a TLS handshake: one that does not end costs 52 KiB, and nobody is known yet who could be held to account."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable

import structlog

from harness.values import peer_text

log = structlog.get_logger()
HANDSHAKE_SECONDS = 10.0
MOST = 1024
"""Handshakes under way: a fleet that lost its controller connects again at once."""
MOST_OF_ONE = 512
"""Of one address, or one /64: many machines may share it, behind a NAT or a load balancer."""
_PAUSE_SECONDS = 0.2
"""After an error of the listening socket, such as too many open files."""


class Door:
    """Accepts, and hands over each connection after its TLS handshake.

    When too many handshakes are under way, the oldest of the source that has the most ends. So silent connections without end
    stand in their own way, and a newcomer always has a place: its handshake takes milliseconds.
    """

    def __init__(self, factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        self._factory, self._context = factory, context
        self._waiting: dict[str, dict[asyncio.Task[None], None]] = collections.defaultdict(dict)

    @property
    def under_way(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def serve(self, listener: socket.socket) -> None:
        """Without end; `listener` does not block."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    made, address = await loop.sock_accept(listener)
                except OSError as error:
                    log.warning("no connection taken", error=str(error))
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                self._take(made, source_of(str(address[0])))
        finally:
            for task in [task for tasks in self._waiting.values() for task in tasks]:
                task.cancel()

    def _take(self, made: socket.socket, source: str) -> None:
        self._make_room(source)
        task = asyncio.get_running_loop().create_task(self._handshake(made))
        self._waiting[source][task] = None
        task.add_done_callback(lambda done: self._done(done, source, made))

    def _make_room(self, source: str) -> None:
        if len(self._waiting.get(source, ())) >= MOST_OF_ONE:
            self._end_oldest(source)
        elif self.under_way >= MOST:
            self._end_oldest(max(self._waiting, key=lambda one: len(self._waiting[one])))

    def _end_oldest(self, source: str) -> None:
        oldest = next(iter(self._waiting[source]))
        del self._waiting[source][oldest]  # at once: the task ends only when the loop comes to it
        oldest.cancel()

    async def _handshake(self, made: socket.socket) -> None:
        made.setblocking(False)
        with contextlib.suppress(OSError):  # what a peer does in a handshake is no fault of ours; ssl's errors are OSErrors
            await asyncio.get_running_loop().connect_accepted_socket(
                self._factory, made, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )

    def _done(self, task: asyncio.Task[None], source: str, made: socket.socket) -> None:
        tasks = self._waiting.get(source, {})
        tasks.pop(task, None)
        if not tasks:
            self._waiting.pop(source, None)
        if task.cancelled():
            made.close()
        elif (error := task.exception()) is not None:
            log.error("internal fault", exc_info=error)


def source_of(address: str) -> str:
    """Whom an address counts for: IPv4 each by itself, of IPv6 the /64, which one machine may have as a whole."""
    try:
        found = ipaddress.ip_address(peer_text(address.partition("%")[0]))
    except ValueError:
        return address
    return str(found) if found.version == 4 else str(ipaddress.ip_network((int(found), 64), strict=False).network_address)
