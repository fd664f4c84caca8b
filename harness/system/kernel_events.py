"""The kernel's word that addresses, links, routes or firewall rules changed, instead of polling for it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

NETLINK_ROUTE = 0
# include/uapi/linux/rtnetlink.h: a group is a bit, and of each pair of messages the first is even.
_LINKS, _IPV4_ADDRESSES, _IPV4_ROUTES, _IPV4_RULES = 0x1, 0x10, 0x40, 0x80
_IPV6_ADDRESSES, _IPV6_ROUTES, _IPV6_RULES = 0x100, 0x400, 0x40000
_GROUPS = _LINKS | _IPV4_ADDRESSES | _IPV4_ROUTES | _IPV4_RULES | _IPV6_ADDRESSES | _IPV6_ROUTES | _IPV6_RULES
_KINDS = {16: "links", 20: "addresses", 24: "routes", 32: "routing rules"}


def watch_network(on_change: Callable[[str], None]) -> socket.socket:
    """Calls `on_change` in the event loop for each change of links, addresses, routes and routing rules.

    Closing the socket ends it.
    """
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_ROUTE)
    events.bind((0, _GROUPS))

    def drain() -> None:
        changed = set()
        try:
            while True:
                kind = int.from_bytes(events.recv(65536)[4:6], sys.byteorder)
                changed.add(_KINDS.get(kind & ~3, "the network"))
        except BlockingIOError:
            pass
        except OSError:  # ENOBUFS: events were lost
            changed.add("the network")
        for what in changed:
            on_change(f"{what} changed")

    asyncio.get_running_loop().add_reader(events, drain)
    return events


async def watch_rules(changes: Callable[[], AsyncIterator[str]], on_change: Callable[[str], None], log: Any) -> None:
    """Calls `on_change` with each sentence of `changes`, as long as the kernel tells of any."""
    try:
        async for sentence in changes():
            on_change(sentence)
    except OSError as error:
        log.warning("the kernel does not tell of changes to the rules; they are looked at every cycle", reason=str(error))
