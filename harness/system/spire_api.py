"""SPIRE's server API over its admin socket: as much as an entry takes, as gRPC on the `h2` library.

`spire-server entry create` would do it too, but takes 70 ms to start and hides a failure: with `-output json` it exits 0.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from harness import spire
from harness.errors import TemporaryError, UnavailableError
from harness.system import workload_api_wire as wire
from harness.values import SpiffeId

TIMEOUT_SECONDS = 5.0
_CREATE = "/spire.api.server.entry.v1.Entry/BatchCreateEntry"
_UPDATE = "/spire.api.server.entry.v1.Entry/BatchUpdateEntry"
OK, NOT_FOUND, ALREADY_EXISTS = 0, 5, 6


def answers(path: Path) -> bool:
    """Whether something accepts connections on the unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) == 0


def ensure_entry(path: Path, entry: spire.Entry) -> None:
    """The entry is there and says what `entry` says, whatever was there before. Blocks; raises HarnessError.

    Two answers are AlreadyExists: the fixed id is taken (then it is brought up to date), or an entry made by hand does the same.
    """
    message = wire.proto_field(1, encode_entry(entry))
    code, text = _status(call(path, _CREATE, message))
    if code == ALREADY_EXISTS:
        code, text = _status(call(path, _UPDATE, message))
        if code == NOT_FOUND:
            return
    if code != OK:
        raise TemporaryError(f"the SPIRE server does not take the entry for {entry.spiffe_id}: {text} (code {code})")


def encode_entry(entry: spire.Entry) -> bytes:
    """spire.api.types.Entry: id = 1, spiffe_id = 2, parent_id = 3, selectors = 4."""
    selector = wire.proto_field(1, b"unix") + wire.proto_field(2, entry.selector.encode())
    parts = (spire.ENTRY_ID.encode(), _id(entry.spiffe_id), _id(entry.parent), selector)
    return b"".join(wire.proto_field(number, part) for number, part in enumerate(parts, 1))


def _id(spiffe_id: SpiffeId) -> bytes:
    return wire.proto_field(1, spiffe_id.trust_domain.encode()) + wire.proto_field(2, spiffe_id.path.encode())


def _status(response: bytes) -> tuple[int, str]:
    """results = 1, of it status = 1, of it code = 1 and message = 2; code 0 is left out of the encoding."""
    try:
        result = dict(wire.proto_fields(response))[1]
        status = dict(wire.proto_fields(result)).get(1, b"")
        return wire.proto_number(status, 1), dict(wire.proto_fields(status)).get(2, b"").decode(errors="replace")
    except (KeyError, ValueError) as error:
        raise TemporaryError(f"the SPIRE server's answer cannot be read: {error}") from None


def call(path: Path, method: str, message: bytes) -> bytes:
    """The answer of one unary call; TemporaryError when there is none, UnavailableError when the server refuses it."""
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    http.initiate_connection()
    http.send_headers(1, _headers(method))
    http.send_data(1, wire.grpc_message(message), end_stream=True)
    buffer, status = bytearray(), (0, "")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            ended = False
            deadline = (
                time.monotonic() + TIMEOUT_SECONDS
            )  # for all of it; the window of HTTP/2, which is not opened, bounds bytes
            while not ended:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                connection.sendall(http.data_to_send())
                data = connection.recv(65536)
                if not data:
                    raise TemporaryError("the SPIRE server closed the connection")
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        buffer += event.data or b""
                    elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        status = _grpc_status(event) or status
                    ended |= isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated)
        body = wire.take_grpc_message(buffer)
    except (OSError, h2.exceptions.ProtocolError, ValueError) as error:
        raise TemporaryError(f"the SPIRE server does not answer: {error}") from None
    if status[0] or body is None:
        raise UnavailableError(f"the SPIRE server refused {method.rpartition('/')[2]}: {status[1]} (gRPC status {status[0]})")
    return body


def _headers(method: str) -> list[tuple[bytes, bytes]]:
    fixed = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", method.encode()), (b":authority", b"localhost")]
    return [*fixed, (b"content-type", b"application/grpc"), (b"te", b"trailers")]


def _grpc_status(event: h2.events.ResponseReceived | h2.events.TrailersReceived) -> tuple[int, str] | None:
    headers = {bytes(name): bytes(value) for name, value in event.headers or ()}
    if b"grpc-status" not in headers:
        return None
    return int(headers[b"grpc-status"]), headers.get(b"grpc-message", b"").decode(errors="replace")
