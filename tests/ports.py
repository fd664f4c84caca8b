"""A TCP port of loopback for a program that must be told one."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """Not one of those that the kernel gives to outgoing connections: by the time that it is listened on, one might have it."""
    while True:
        port = random.randrange(12000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
