"""The client half of FetchX509SVID over a unix socket, as gRPC on the `h2` library; yields undecoded responses.

Imports no more than the child process that uses it can afford: not harness.errors, whose dataclasses cost 1.4 MiB.
"""

from __future__ import annotations

import enum
import re
import socket
from collections.abc import Callable, Iterator

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from harness.system import workload_api_wire as wire

Headers = list[tuple[bytes, bytes]]
METHOD = b"/SpiffeWorkloadAPI/FetchX509SVID"
SECURITY_HEADER = (b"workload.spiffe.io", b"true")
_REQUEST: Headers = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", METHOD),
    (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
    SECURITY_HEADER,
]
CONNECT_TIMEOUT_SECONDS = 5.0


class FailureKind(enum.Enum):
    """Why there is no identity; the values are what the child writes."""

    SOCKET_MISSING = "socket-missing"
    DENIED = "denied"
    INVALID = "invalid"
    TEMPORARY = "temporary"


class CallError(Exception):
    """The call ended, as each does sooner or later; `kind` says how."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Call:
    """One FetchX509SVID call without I/O: send what `outgoing` returns, give `feed` what arrives."""

    def __init__(self) -> None:
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self._http.initiate_connection()
        self._stream = self._http.get_next_available_stream_id()
        self._http.send_headers(self._stream, _REQUEST)
        self._http.send_data(self._stream, wire.grpc_message(b""), end_stream=True)
        self._buffer = bytearray()

    def outgoing(self) -> bytes:
        return self._http.data_to_send()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The responses that `data` completes; raises CallError when the call has ended."""
        try:
            for event in self._http.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self._http.acknowledge_received_data(event.flow_controlled_length or 0, self._stream)
                    self._buffer += event.data or b""
                    while (message := wire.take_grpc_message(self._buffer)) is not None:
                        yield message
                else:
                    _check(event)
        except (h2.exceptions.ProtocolError, ValueError) as error:
            raise CallError(FailureKind.TEMPORARY, f"the Workload API sent what is not gRPC: {error}") from None


def responses(path: str, wait: Callable[[int], None] = lambda fd: None) -> Iterator[bytes]:
    """Each X509SVIDResponse of one call, as protobuf bytes, until CallError.

    `wait` is called with the connection's descriptor before each read, for a caller that watches something else too.
    """
    with _connect(path) as connection:
        call = Call()
        try:
            connection.sendall(call.outgoing())
            while True:
                wait(connection.fileno())
                data = connection.recv(65536)
                if not data:
                    raise CallError(FailureKind.TEMPORARY, "the Workload API closed the connection")
                yield from call.feed(data)
                connection.sendall(call.outgoing())
        except OSError as error:
            raise CallError(FailureKind.TEMPORARY, f"the Workload API's connection broke: {error}") from None


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_SECONDS)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise CallError(_connect_failure(error), f"{path}: {error.strerror or error}") from None
    connection.settimeout(None)
    return connection


def _connect_failure(error: OSError) -> FailureKind:
    if isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError):
        return FailureKind.SOCKET_MISSING
    if isinstance(error, PermissionError):
        return FailureKind.DENIED
    # Python itself refuses a path of more than 107 bytes, without an errno.
    return FailureKind.TEMPORARY if error.errno or isinstance(error, TimeoutError) else FailureKind.INVALID


def _check(event: h2.events.Event) -> None:
    """Raises CallError when `event` ends the call."""
    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
        headers = {bytes(name): bytes(value) for name, value in event.headers or ()}
        if b"grpc-status" in headers:
            raise _status(headers[b"grpc-status"], headers.get(b"grpc-message", b""))
        if headers.get(b":status", b"200") != b"200":
            raise CallError(
                FailureKind.TEMPORARY, f"the Workload API answered HTTP {headers[b':status'].decode(errors='replace')}"
            )
    elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
        raise CallError(FailureKind.TEMPORARY, "the Workload API ended the stream")


def _status(code: bytes, message: bytes) -> CallError:
    """What a gRPC status means to us; its message is percent-encoded UTF-8."""
    plain = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), message)
    text = plain.decode(errors="replace")
    number = code.decode(errors="replace")
    if number == "7":
        return CallError(FailureKind.DENIED, f"the Workload API refused: {text}")
    if number == "3":
        return CallError(FailureKind.INVALID, f"the Workload API calls our request invalid: {text}")
    return CallError(FailureKind.TEMPORARY, f"the Workload API ended the stream with gRPC status {number}: {text}")
