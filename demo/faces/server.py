"""What all four programs share: an HTTP/1.1 server with keep-alive, a thread per connection, that ends with 0 on SIGTERM."""

from __future__ import annotations

import errno
import http.server
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

MAX_BODY_BYTES = 65536
_IDLE_SECONDS = 75.0  # an idle connection is closed
_FINISH_SECONDS = 5.0  # what is in flight at SIGTERM may take this long


@dataclass(frozen=True, slots=True)
class Request:
    """`path` has no query. `headers` has each name as Go writes it (`User-Agent`), with all its values."""

    method: str
    path: str
    query: str
    client: str
    headers: Mapping[str, list[str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        """The first value, on one line even where the client folded it."""
        return " ".join(self.headers.get(name.title(), [""])[0].split())

    @property
    def segment(self) -> str:
        """`edge` or `center`: the first part of the path decides, and all but `edge` is center."""
        return "edge" if self.path.split("/")[1:2] == ["edge"] else "center"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, handler: Handler) -> None:
        self.handler = handler
        self.in_flight = 0
        self.lock = threading.Lock()
        self.address_family = socket.AF_INET6
        try:
            super().__init__(("::", port), _Connection)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # no IPv6 here
                raise
            self.address_family = socket.AF_INET
            super().__init__(("", port), _Connection)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's own, which asks the DNS for our name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "faces", self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no error of ours
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT; requests in flight are answered."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        stop.wait()
        self.shutdown()
        self.server_close()
        deadline = time.monotonic() + _FINISH_SECONDS
        while self.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)


class _Connection(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one segment

    def _serve(self) -> None:
        with self.server.lock:
            self.server.in_flight += 1
        try:
            self._answer()
            self.wfile.flush()
        except OSError:  # the client is gone
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = do_OPTIONS = _serve

    def _answer(self) -> None:
        try:
            length, target = int(self.headers.get("Content-Length", "0")), urlsplit(self.path)
        except ValueError:
            length, target = -1, urlsplit("")
        if not 0 <= length <= MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body that was not read would be taken for the next request
            response = Response(400, b"a bad path, or a body too large or of unknown length\n", {"Content-Type": "text/plain"})
        else:
            headers: dict[str, list[str]] = {}
            for name, value in self.headers.items():
                headers.setdefault(name.title(), []).append(value)
            host = self.client_address[0].removeprefix("::ffff:")
            client = f"{f'[{host}]' if ':' in host else host}:{self.client_address[1]}"
            body = self.rfile.read(length)
            response = self.server.handler(Request(self.command, target.path, target.query, client, headers, body))
        self._send(response)

    def _send(self, response: Response) -> None:
        self.send_response(response.status, "" if response.status == 599 else None)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def log_message(self, format: str, *args: object) -> None:
        """No line per request: the page makes eight of them a second."""
