"""A proxy that is halted takes a connection, by its kernel, and says nothing: so a call shows whether the proxy got it."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterable, Iterator

BY_PROXY, UNTOUCHED = "by the proxy", "untouched"

SERVE = """
import socket, sys, threading
def talk(connection):
    with connection:
        connection.sendall(sys.argv[1].encode())
        while data := connection.recv(100):
            connection.sendall(data)
def echo(server):
    while True:
        data, peer = server.recvfrom(100)
        server.sendto(data, peer)
def serve(server):
    while True:
        threading.Thread(target=talk, args=(server.accept()[0],), daemon=True).start()
for place in sys.argv[2:]:
    address, _, port = place.rpartition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind((address, int(port)))
    threading.Thread(target=echo, args=(udp,)).start()
    server = socket.create_server((address, int(port)), family=family, dualstack_ipv6=address == "::")
    threading.Thread(target=serve, args=(server,)).start()
"""
"""`WORD PLACE...`: says the word to who connects to one of the places (`address/port`), and then all that it is told; by UDP
the latter only."""

_CALL = """
import concurrent.futures, json, socket, sys
def call(way):
    source, address, port = way
    try:
        with socket.create_connection((address, port), 5, (source, 0) if source else None) as connection:
            return said(connection)
    except OSError as error:
        return str(error.strerror or error)
def said(connection):
    connection.settimeout(1)
    try:
        return connection.recv(100).decode()
    except TimeoutError:
        return SILENT
ways = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(len(ways)) as pool:
    print(json.dumps(list(pool.map(call, ways))))
"""

Way = tuple[str, str, int]
"""Source (any if empty), address and port of a connection."""


def called(run: Callable[..., str], python: str, ways: Iterable[Way]) -> list[str]:
    """What came of a call by each way, all at once: the server's word, BY_PROXY, or the error. `run`: where they begin."""
    return list(json.loads(run(python, "-c", _CALL.replace("SILENT", repr(BY_PROXY)), json.dumps(list(ways)))))


@contextlib.contextmanager
def halted(tell: Callable[[signal.Signals], object]) -> Iterator[None]:
    """`tell` sends a signal to who is halted."""
    tell(signal.SIGSTOP)
    try:
        yield
    finally:
        tell(signal.SIGCONT)
