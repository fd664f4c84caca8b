"""Who listens on a TCP port of this network namespace, by uid."""

from __future__ import annotations

from pathlib import Path

_LISTEN = "0A"  # include/net/tcp_states.h


def uids(port: int) -> frozenset[int]:
    """The users whose sockets listen on it; empty when nobody does."""
    found = set()
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(int(fields[7]))
    return frozenset(found)
