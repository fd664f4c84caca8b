"""A listener of the host whose connections go on in another process's network namespace."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from pathlib import Path

CLONE_NEWNET = 0x40000000


DEFAULT_PORT = 8000


def listener(port: int | None) -> socket.socket:
    """On the host's loopback: at `port`, or else at the default one or any that is free. Raises OSError if `port` is taken."""
    if port is not None:
        return _listen(port)
    try:
        return _listen(DEFAULT_PORT)
    except OSError:
        return _listen(0)


def _listen(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        made.listen()
    except OSError:
        made.close()
        raise
    return made


def relay(listener: socket.socket, pid: int, port: int) -> None:
    """Without end, in a thread of its own: that thread is in the namespace of `pid` from then on, and its sockets are."""
    namespace = os.open(Path(f"/proc/{pid}/ns/net"), os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    while True:
        outer, _ = listener.accept()
        try:
            inner = socket.create_connection(("127.0.0.1", port), 5)
        except OSError:
            outer.close()
            continue
        for one, other in ((outer, inner), (inner, outer)):
            threading.Thread(target=_copy, args=(one, other), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
