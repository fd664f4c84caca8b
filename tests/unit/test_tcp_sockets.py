"""What the kernel answers about sockets, and what is made of it."""

from __future__ import annotations

import socket
import struct

import pytest

from harness.system import tcp_sockets


def test_a_dump_that_fails_is_no_empty_one() -> None:
    """As of a kernel that has inet_diag, and not tcp_diag: it tells the error in the end of the dump."""
    unknown_protocol = tcp_sockets._REQUEST.pack(socket.AF_INET, 255, 0, 1 << tcp_sockets.LISTEN, struct.pack("!H", 0))
    with pytest.raises(FileNotFoundError):
        list(tcp_sockets._answers(tcp_sockets._SOCK_DIAG_BY_FAMILY, tcp_sockets._REQUEST_DUMP, unknown_protocol))


def test_a_listener_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert [str(found.address) for found in tcp_sockets.sockets((tcp_sockets.LISTEN,), port)] == ["127.0.0.1"]


def test_a_connection_tells_its_peer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
        port = server.getsockname()[1]
        found = list(tcp_sockets.sockets((tcp_sockets.ESTABLISHED,), port))
        assert [str(one.peer) for one in found] == ["127.0.0.1"]
