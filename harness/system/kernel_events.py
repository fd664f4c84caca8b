"""The kernel's word that routes or firewall rules changed, instead of polling for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

NETLINK_ROUTE = 0
RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x40, 0x400


def watch_routes(on_change: Callable[[str], None]) -> socket.socket:
    """Calls `on_change` in the event loop whenever a route comes or goes; close the socket to end it."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_ROUTE)
    events.bind((0, RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE))

    def drain() -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # ENOBUFS: events were lost, which is one more change
            while True:
                events.recv(65536)
        on_change("routes changed")

    asyncio.get_running_loop().add_reader(events, drain)
    return events


async def watch_rules(changes: Callable[[], AsyncIterator[str]], on_change: Callable[[str], None], log: Any) -> None:
    """Calls `on_change` with each sentence of `changes`, as long as the kernel tells of any."""
    try:
        async for sentence in changes():
            on_change(sentence)
    except OSError as error:
        log.warning("the kernel does not tell of changes to the rules; they are looked at every cycle", reason=str(error))
