"""What came back of a call is told in the system's words, whatever the library made of it: httpx, asyncio, urllib."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from harness import phrases
from harness.errors import HarnessError, UnavailableError
from harness.system import came_back, https
from tests.mesh import ROOT
from tests.ports import free_port

Serve = Callable[[socket.socket], None]
REFUSED = os.strerror(errno.ECONNREFUSED).lower()


def of_httpx(url: str) -> str:
    with httpx.Client(trust_env=False, verify=False, timeout=0.5) as client:  # noqa: S501
        try:
            client.get(url)
        except (httpx.HTTPError, ssl.SSLError) as error:
            return came_back.words(error)
    return ""


def of_async_httpx(url: str) -> str:
    async def ask() -> str:
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=0.5) as client:  # noqa: S501
            try:
                await client.get(url)
            except (httpx.HTTPError, ssl.SSLError) as error:
                return came_back.words(error)
        return ""

    return asyncio.run(ask())


BOTH = pytest.mark.parametrize("ask", [of_httpx, of_async_httpx])


@contextlib.contextmanager
def serving(serve: Serve) -> Iterator[int]:
    """Each connection is given to `serve`, and closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def loop() -> None:
            with contextlib.suppress(OSError):
                while True:
                    made, _ = listener.accept()
                    with made, contextlib.suppress(OSError):
                        serve(made)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_the_phrases_are_the_system_s() -> None:
    assert phrases.REFUSED == REFUSED
    assert os.strerror(errno.ECONNRESET).lower().startswith(phrases.RESET)


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_refused(ask: Callable[[str], str], host: str) -> None:
    """By name there may be several addresses, and then a group of errors."""
    assert ask(f"http://{host}:{free_port()}/") == phrases.REFUSED


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_refused_to_asyncio(host: str) -> None:
    async def connect() -> None:
        await asyncio.open_connection(host, free_port())

    with pytest.raises(OSError) as caught:
        asyncio.run(connect())
    assert came_back.words(caught.value) == phrases.REFUSED


def test_refused_to_urllib() -> None:
    with pytest.raises(UnavailableError) as caught:
        https.fetch(f"https://127.0.0.1:{(port := free_port())}/a-secret-path")
    assert caught.value.message == f"fetching the invitation from 127.0.0.1:{port}: {phrases.REFUSED}"


@BOTH
def test_what_speaks_no_http(ask: Callable[[str], str]) -> None:
    def babble(made: socket.socket) -> None:
        made.recv(4096)
        made.sendall(b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n")  # as TLS refuses

    with serving(babble) as port:
        assert phrases.NOT_HTTP in ask(f"http://127.0.0.1:{port}/")


@BOTH
def test_what_ends_the_connection(ask: Callable[[str], str]) -> None:
    def read(made: socket.socket) -> None:
        made.recv(4096)

    with serving(read) as port:
        assert ask(f"http://127.0.0.1:{port}/") == f"it {phrases.DISCONNECTED} without an answer"


@BOTH
def test_what_speaks_no_tls(ask: Callable[[str], str]) -> None:
    def plain(made: socket.socket) -> None:
        made.recv(4096)
        made.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with serving(plain) as port:
        assert phrases.NO_TLS in ask(f"https://127.0.0.1:{port}/")


@BOTH
def test_silence(ask: Callable[[str], str]) -> None:
    over = threading.Event()

    def silent(_: socket.socket) -> None:
        over.wait(60)

    with serving(silent) as port:
        try:
            assert ask(f"http://127.0.0.1:{port}/").startswith(phrases.NO_ANSWER)
        finally:
            over.set()


def test_a_time_that_was_over_is_told() -> None:
    assert came_back.within(httpx.ConnectTimeout(""), 3.0, 9.0) == f"{phrases.NO_CONNECTION} within 3 s"
    assert came_back.within(httpx.ReadTimeout(""), 3.0, 9.0) == f"{phrases.NO_ANSWER} within 9 s"


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(socket.gaierror) as caught:
        socket.getaddrinfo("no-number", 80, flags=socket.AI_NUMERICHOST)
    assert phrases.UNRESOLVED in came_back.words(caught.value)


def test_a_certificate_that_is_refused() -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_code, error.verify_message = 18, "self-signed certificate"
    try:
        raise httpx.ConnectError("[SSL: …]") from error
    except httpx.ConnectError as caught:
        assert came_back.distrust(caught) is error
        assert "self-signed certificate" in came_back.words(caught)


def test_errors_that_cause_each_other_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__ = second
    second.__cause__ = first
    assert came_back.words(first) == "first"


def test_an_error_has_what_was_tried() -> None:
    error = HarnessError("connection refused", tried="GET http://127.0.0.1/")
    assert (error.tried, error.came) == ("GET http://127.0.0.1/", "connection refused")
    assert error.message == str(error) == "GET http://127.0.0.1/: connection refused"


def test_nobody_shows_what_httpx_says() -> None:
    """Its words, such as "All connection attempts failed", are only of use to who has its source."""
    for path in sorted((ROOT / "harness").rglob("*.py")):
        if path.name == "came_back.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler) or node.type is None or "httpx." not in ast.unparse(node.type):
                continue
            text = "\n".join(ast.unparse(line) for line in node.body)
            shown = node.name is not None and (f"str({node.name})" in text or f"{{{node.name}" in text)
            assert not shown, f"{path.name}:{node.lineno} shows the library's words"
