"""Probes against real listeners: one that answers, one that refuses, one that says nothing."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable

import h2.config
import h2.connection
import h2.events
import pytest

from harness.probe import Exec, Grpc, Header, HttpGet, Probe, TcpSocket
from harness.specs import Check, User
from harness.system import workload_api_wire as wire
from harness.system.probe_call import Checker
from tests.ports import free_port
from tests.processes import with_words
from tests.waiting import wait

NOBODY = User(65534, 65534)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answering(status: str) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        body = b"seen" if b"x-probe: yes" in request.lower() else b"-"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes(64))
    await reader.read()
    writer.close()


def check(serve: Serve, times: int = 1, timeout: float = 10.0) -> list[str | None]:
    async def run() -> list[str | None]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        checker = Checker()
        http_get = HttpGet(port, path="/ready", http_headers=(Header("X-Probe", "yes"),))
        probe = Probe(timeout_seconds=timeout, http_get=http_get)
        found = [await checker.check(Check(probe)) for _ in range(times)]
        server.close()
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "302 Found", "399 X"])
def test_statuses_that_pass(status: str) -> None:
    assert check(answering(status)) == [None]


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "503 Service Unavailable"])
def test_statuses_that_fail(status: str) -> None:
    assert check(answering(status)) == [f"HTTP {status[:3]}"]


def test_one_that_says_nothing_fails_each_time_and_ends_nothing_else() -> None:
    assert check(silent, times=3, timeout=0.3) == ["no answer within 0.3 s"] * 3


def ask(probe: Probe, command: tuple[str, ...] | None = None, user: User | None = NOBODY) -> str | None:
    async def run() -> str | None:
        return await Checker().check(Check(probe, command, user))

    return asyncio.run(run())


def test_nobody_listens() -> None:
    port = free_port()
    for probe in (Probe(tcp_socket=TcpSocket(port)), Probe(http_get=HttpGet(port)), Probe(grpc=Grpc(port))):
        assert ask(probe) == "connection refused"
    for scheme in ("HTTP", "HTTPS"):
        assert ask(Probe(http_get=HttpGet(port, "localhost", scheme=scheme))) == "connection refused"


def test_tcp_passes_when_a_connection_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert ask(Probe(tcp_socket=TcpSocket(listener.getsockname()[1]))) is None


class Health:
    """grpc.health.v1 as a server has it, on h2's own server side. `states`: by service."""

    def __init__(self, states: dict[str, int]) -> None:
        self._states = states

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        http.initiate_connection()
        body, path = bytearray(), ""
        while data := await reader.read(65536):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    path = next(value.decode() for name, value in event.headers or () if name == b":path")
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    self._answer(http, event.stream_id or 0, path, bytes(wire.take_grpc_message(body) or b""))
            writer.write(http.data_to_send())
        writer.close()

    def _answer(self, http: h2.connection.H2Connection, stream: int, path: str, message: bytes) -> None:
        service = dict(wire.proto_fields(message)).get(1, b"").decode()
        headers = [(":status", "200"), ("content-type", "application/grpc")]
        if path != "/grpc.health.v1.Health/Check":
            http.send_headers(stream, [*headers, ("grpc-status", "12")], end_stream=True)
        elif service not in self._states:
            http.send_headers(stream, [*headers, ("grpc-status", "5"), ("grpc-message", "unknown service")], end_stream=True)
        else:
            http.send_headers(stream, headers)
            http.send_data(stream, wire.grpc_message(bytes((8, self._states[service])) if self._states[service] else b""))
            http.send_headers(stream, [("grpc-status", "0")], end_stream=True)


def ask_grpc(serve: Serve, service: str = "", timeout: float = 10.0) -> str | None:
    async def run() -> str | None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        grpc = Grpc(server.sockets[0].getsockname()[1], service=service)
        found = await Checker().check(Check(Probe(grpc=grpc, timeout_seconds=timeout)))
        server.close()
        return found

    return asyncio.run(run())


def test_grpc_passes_on_serving_and_on_nothing_else() -> None:
    serve = Health({"": 1, "faces": 1, "down": 2, "unknown": 0}).serve
    assert ask_grpc(serve) is None
    assert ask_grpc(serve, "faces") is None
    assert ask_grpc(serve, "down") == "the service is NOT_SERVING"
    assert ask_grpc(serve, "unknown") == "the service is UNKNOWN"
    assert ask_grpc(serve, "other") == "gRPC status NOT_FOUND unknown service"


def test_grpc_asked_of_something_else() -> None:
    assert ask_grpc(answering("200 OK")) == "it closed the connection without an answer"
    assert (ask_grpc(babbling) or "").startswith("the answer is not gRPC")
    assert ask_grpc(silent, timeout=0.5) == "no answer within 0.5 s"


EXEC = Probe(exec_=Exec("check"), timeout_seconds=10.0)


def shell(text: str) -> tuple[str, ...]:
    return "/bin/sh", "-c", text


def test_exec_runs_what_this_machine_allows_and_nothing_else() -> None:
    assert ask(EXEC) == "this machine allows no command of that name (probes.commands.check)"
    assert ask(EXEC, ("/bin/true",)) is None
    assert ask(EXEC, ("/bin/false",)) == "/bin/false ended with status 1"
    assert ask(EXEC, shell("yes | head -c 300000; echo not yet >&2; exit 3")) == "/bin/sh ended with status 3: not yet"
    assert ask(EXEC, shell("kill -9 $$")) == "/bin/sh ended with signal 9"
    assert "/nowhere" in (ask(EXEC, ("/nowhere",)) or "")


@pytest.mark.root
def test_exec_has_neither_our_user_nor_our_rights() -> None:
    assert ask(EXEC, shell('test "$(id -u) $(id -g) $(id -G)" = "65534 65534 65534"')) is None
    for line in ("CapBnd:.0000000000000000", "NoNewPrivs:.1"):
        assert ask(EXEC, shell(f"grep -q '{line}' /proc/self/status")) is None


def test_exec_is_gone_with_all_that_it_started_when_its_time_is_up() -> None:
    time_and_own = f"77.{uuid.uuid4().int}"
    assert ask(Probe(exec_=Exec("check"), timeout_seconds=1.0), shell(f"sleep {time_and_own} & wait")) == "no answer within 1 s"
    wait(lambda: not with_words(time_and_own))
