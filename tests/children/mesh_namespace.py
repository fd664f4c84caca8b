"""A network namespace that a thread of this process enters, and an application in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
APP_PORT = 8000
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def run(*argv: str, stdin: str | None = None) -> None:
    subprocess.run(argv, input=stdin, text=True, check=True)


class Namespace:
    def __init__(self, name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def call(self, function: Callable[[], T], gid: int | None = None) -> T:
        """The result of `function` in a thread of its own that has entered, and made its sockets as `gid`."""
        result: list[T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                self._enter(gid)
                result.append(function())
            except (OSError, AssertionError) as error:
                failure.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def start(self, function: Callable[[], object]) -> threading.Thread:
        def body() -> None:
            self._enter(None)
            function()

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        return thread

    def _enter(self, gid: int | None) -> None:
        fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            assert _LIBC.setns(fd, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        finally:
            os.close(fd)
        if gid is not None:
            _LIBC.setfsgid(gid)  # of this thread alone

    def delete(self) -> None:
        run("ip", "netns", "delete", self.name)


class RawApp:
    """Listens on the application's port, remembers every byte, and answers the whole of what it read at the client's end."""

    def __init__(self, namespace: Namespace, address: str) -> None:
        self.received = bytearray()
        self.connections = 0
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = namespace.call(lambda: socket.create_server((address, APP_PORT), family=family))
        self._thread = namespace.start(self._serve)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                with connection:
                    while data := connection.recv(65536):
                        self.received += data
                    connection.sendall(bytes(self.received))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
