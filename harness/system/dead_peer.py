"""A TCP connection whose packets vanish (a firewall lost its state, a machine its power) says nothing by itself: the kernel asks.

For both ends of what the machine and the controller say to each other.
"""

from __future__ import annotations

import socket
from typing import Protocol

IDLE_SECONDS, INTERVAL_SECONDS, PROBES = 4, 2, 3
"""The kernel's own probes: one lost probe does not end a connection; 10 s of silence do. A lease has 30 s."""
UNACKNOWLEDGED_SECONDS = 10
"""What was sent and not acknowledged for so long ends it too; by default the kernel tries for a quarter of an hour."""


class Socket(Protocol):
    """Also asyncio's TransportSocket."""

    def setsockopt(self, level: int, name: int, value: int, /) -> None: ...


def watch(connection: Socket) -> None:
    """The kernel ends it, with an error for who reads or writes, soon after the other end has gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_SECONDS * 1000)
