"""One client's HTTP/2 connection to the embedded Workload API: who it is, its open streams, and what they still have to get."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from harness.system import workload_api_wire as wire
from harness.system.workload_api_client import METHOD, SECURITY_HEADER, Headers
from harness.system.workload_api_issuer import Issuer

_PEERCRED = struct.Struct("3i")
_RESPONSE: Headers = [(b":status", b"200"), (b"content-type", b"application/grpc")]


@dataclass(slots=True)
class _Stream:
    """`due`: the present SVID has to follow `unsent`, the rest of a message that flow control held back."""

    unsent: bytearray = field(default_factory=bytearray)
    due: bool = True


class Connection(asyncio.Protocol):
    """Asyncio's protocol classes are the one thing we inherit from: it calls them by these names."""

    def __init__(self, issuer: Issuer, connections: set[Connection]) -> None:
        self._issuer = issuer
        self._connections = connections
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self._requests: dict[int, Headers] = {}
        self._streams: dict[int, _Stream] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = cast(socket.socket, transport.get_extra_info("socket"))
        _, self.uid, _ = _PEERCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        self._connections.add(self)
        self._http.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def pause_writing(self) -> None:
        """A client that reads nothing may not make us hold answers to its pings."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._http.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.close()
            return
        complete = [stream for event in events if (stream := self._note(event)) is not None]
        if self._transport.is_closing():
            return
        for stream in complete:
            # A stream that was reset within the same read is no longer there.
            if (headers := self._requests.pop(stream, None)) is not None:
                self._answer(stream, headers)
        self._flush()

    def push(self) -> None:
        """The SVIDs have changed."""
        for stream in self._streams.values():
            stream.due = True
        self._flush()

    def close(self) -> None:
        self._streams.clear()
        self._http.close_connection()
        self._transport.write(self._http.data_to_send())
        self._transport.close()

    def _note(self, event: h2.events.Event) -> int | None:
        """Keeps book of `event`; returns the stream whose request is complete."""
        if isinstance(event, h2.events.RequestReceived):
            self._requests[event.stream_id] = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
        elif isinstance(event, h2.events.DataReceived):
            self._http.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self._requests.pop(event.stream_id, None)
            self._streams.pop(event.stream_id, None)
        elif isinstance(event, h2.events.StreamEnded):
            return event.stream_id
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._streams.clear()
            self._transport.close()
        return None

    def _answer(self, stream: int, headers: Headers) -> None:
        if (b":path", METHOD) not in headers:
            self._refuse(stream, b"12", b"unknown method")
        elif SECURITY_HEADER not in headers:
            self._refuse(stream, b"3", b"security header missing from request")
        elif self._issuer.response(self.uid) is None:
            self._refuse(stream, b"7", b"no identity issued")
        else:
            self._http.send_headers(stream, _RESPONSE)
            self._streams[stream] = _Stream()

    def _refuse(self, stream: int, status: bytes, message: bytes) -> None:
        self._http.send_headers(stream, [*_RESPONSE, (b"grpc-status", status), (b"grpc-message", message)], end_stream=True)

    def _flush(self) -> None:
        """Sends what the client's flow control lets us send."""
        for number, stream in self._streams.items():
            while stream.unsent or stream.due:
                if not stream.unsent:
                    stream.unsent += wire.grpc_message(self._issuer.response(self.uid) or b"")
                    stream.due = False
                size = min(self._http.local_flow_control_window(number), self._http.max_outbound_frame_size)
                if size <= 0:
                    break
                self._http.send_data(number, bytes(stream.unsent[:size]))
                del stream.unsent[:size]
        self._transport.write(self._http.data_to_send())
