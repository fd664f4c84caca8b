"""How the development proxy ends: an answer that is owed still comes, idle connections go, and the grace period bounds it all."""

from __future__ import annotations

import socket
import time

import pytest

from tests.children.mesh_lab import (
    REDIRECTED_GID,
    VIP,
    Lab,
    Machine,
    mesh_fixture,  # noqa: F401 — a fixture
)
from tests.children.mesh_namespace import APP_PORT, RawApp
from tests.waiting import wait

pytestmark = pytest.mark.root


def accepts(machine: Machine, port: int) -> bool:
    def call() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((machine.address, port)) == 0

    return machine.namespace.call(call)


def test_drain_lets_an_answer_come_and_ends_idle_connections(mesh: Lab) -> None:
    client, server = mesh.machine("cli"), mesh.machine("srv", "app")
    mesh.publish(server)
    listener = server.namespace.call(lambda: socket.create_server((server.address, APP_PORT)))

    def calls() -> tuple[float, bytes]:
        with (
            listener,
            socket.create_connection((VIP, 80), timeout=30) as idle,
            socket.create_connection((VIP, 80), timeout=30) as busy,
        ):
            idle.sendall(b"a")
            one, _ = listener.accept()
            assert one.recv(1) == b"a"
            one.sendall(b"A")
            assert idle.recv(1) == b"A"
            busy.sendall(b"b")
            two, _ = listener.accept()
            assert two.recv(1) == b"b"
            assert server.proxy is not None
            server.proxy.terminate()
            began = time.monotonic()
            assert idle.recv(1) == b""  # owed nothing
            ended = time.monotonic() - began
            assert not accepts(server, 4143)
            time.sleep(1.0)  # the answer takes longer than a connection may be idle
            two.sendall(b"B")
            answer = busy.recv(1)
            one.close()
            two.close()
            return ended, answer

    ended, answer = client.namespace.call(calls, REDIRECTED_GID)
    assert answer == b"B"
    assert ended > 0.8
    assert server.proxy is not None
    assert server.proxy.wait(60) == 0


def test_the_grace_period_ends_the_drain(mesh: Lab) -> None:
    client, server = mesh.machine("cli"), mesh.machine("srv", "app", start=False)
    server.spawn(server.environment("app", mesh.anchors) | {"LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD": "500ms"})
    server.until_ready()
    mesh.publish(server)
    app = RawApp(server.namespace, server.address)

    def hold() -> float:
        with socket.create_connection((VIP, 80), timeout=30) as connection:
            connection.sendall(b"no answer to this")
            wait(lambda: bool(app.received))
            began = time.monotonic()
            assert server.stop() == 0
            return time.monotonic() - began

    assert 0.4 < client.namespace.call(hold, REDIRECTED_GID) < 20
    app.close()
