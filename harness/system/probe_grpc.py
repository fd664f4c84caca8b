"""grpc.health.v1 Check, as gRPC on the `h2` library over plain TCP; the answer says why it failed."""

from __future__ import annotations

import asyncio

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from harness import phrases
from harness.probe import Grpc
from harness.system import workload_api_wire as wire

METHOD = "/grpc.health.v1.Health/Check"
SERVING = 1
_STATES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_CODES = {"5": "NOT_FOUND", "12": "UNIMPLEMENTED", "14": "UNAVAILABLE"}


async def check(target: Grpc) -> str:
    """Empty when the service is SERVING. Raises OSError without a connection."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    call = _Call(target)
    try:
        while call.result is None:
            writer.write(call.outgoing())
            data = await reader.read(65536)
            if not data:
                return f"it {phrases.DISCONNECTED} without an answer"
            call.feed(data)
    except (h2.exceptions.ProtocolError, ValueError) as error:
        return f"the answer is not gRPC: {error}"[:200]
    finally:
        writer.close()
    return call.result


class _Call:
    """Without I/O: send what `outgoing` returns, give `feed` what arrives; `result` is there when the call has ended."""

    def __init__(self, target: Grpc) -> None:
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._http.initiate_connection()
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self.result: str | None = None
        headers = [(":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", str(target.place))]
        self._http.send_headers(1, [*headers, ("content-type", "application/grpc"), ("te", "trailers")])
        request = wire.proto_field(1, target.service.encode()) if target.service else b""
        self._http.send_data(1, wire.grpc_message(request), end_stream=True)

    def outgoing(self) -> bytes:
        return self._http.data_to_send()

    def feed(self, data: bytes) -> None:
        for event in self._http.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self._body += event.data or b""
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self._headers |= {str(name): str(value) for name, value in event.headers or ()}
            elif isinstance(event, h2.events.StreamEnded):
                self.result = self._judge()
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                self.result = "the server ended the call"

    def _judge(self) -> str:
        status = self._headers.get("grpc-status")
        if status != "0":
            code = f"gRPC status {_CODES.get(status, status)}" if status else f"HTTP status {self._headers.get(':status')}"
            return f"{code} {self._headers.get('grpc-message', '')}".rstrip()
        state = wire.proto_number(wire.take_grpc_message(self._body) or b"", 1)
        return "" if state == SERVING else f"the service is {_STATES.get(state, state)}"
