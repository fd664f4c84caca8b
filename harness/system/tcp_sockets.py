"""The TCP sockets of this network namespace on one local port, by the kernel's own tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.errors import UnavailableError

_ESTABLISHED, _LISTEN = "01", "0A"  # include/net/tcp_states.h


def listeners(port: int) -> frozenset[int]:
    """The users whose sockets listen on it; empty when nobody does. Raises UnavailableError when the kernel does not tell."""
    return frozenset(_users(port, _LISTEN))


def open_connections(port: int) -> int:
    """Established connections to it, of both families."""
    return sum(1 for _ in _users(port, _ESTABLISHED))


def _users(port: int, state: str) -> Iterator[int]:
    """The uid of each socket."""
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        except OSError as error:
            raise UnavailableError(f"{table} cannot be read: {error.strerror}") from None
        for line in lines:
            fields = line.split()
            if fields[3] == state and int(fields[1].rpartition(":")[2], 16) == port:
                yield int(fields[7])
