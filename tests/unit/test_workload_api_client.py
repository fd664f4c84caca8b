"""The call without I/O, against the other half of the `h2` library in memory."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import pytest

from harness.system import workload_api_client as client
from harness.system import workload_api_wire as wire
from harness.system.workload_api_client import FailureKind

RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]


class Peer:
    """A server that has read the call's request."""

    def __init__(self) -> None:
        self.call = client.Call()
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.http.initiate_connection()
        self.events = self.http.receive_data(self.call.outgoing())

    def exchange(self) -> list[bytes]:
        """What the call makes of our bytes; its own bytes go to `events`."""
        messages = list(self.call.feed(self.http.data_to_send()))
        self.events = self.http.receive_data(self.call.outgoing())
        return messages


def test_the_request_is_what_the_workload_api_asks_for() -> None:
    (request,) = (event for event in Peer().events if isinstance(event, h2.events.RequestReceived))
    headers = set(request.headers or ())
    assert headers >= {
        (b":path", b"/SpiffeWorkloadAPI/FetchX509SVID"),
        (b"workload.spiffe.io", b"true"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    }


def test_a_long_stream_never_runs_out_of_window() -> None:
    peer = Peer()
    peer.http.send_headers(1, RESPONSE)
    for _ in range(100):
        peer.http.send_data(1, wire.grpc_message(bytes(4000)))
        assert peer.exchange() == [bytes(4000)]


def test_pings_are_answered() -> None:
    peer = Peer()
    peer.http.ping(b"12345678")
    assert peer.exchange() == []
    assert any(isinstance(event, h2.events.PingAckReceived) for event in peer.events)


@pytest.mark.parametrize("after_data", [True, False], ids=["trailers", "trailers only"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("7", FailureKind.DENIED),
        ("3", FailureKind.INVALID),
        ("14", FailureKind.TEMPORARY),
        ("0", FailureKind.TEMPORARY),
        ("odd", FailureKind.TEMPORARY),
    ],
)
def test_the_status_decides_the_kind(status: str, kind: FailureKind, after_data: bool) -> None:
    peer = Peer()
    trailers = [("grpc-status", status), ("grpc-message", "100%25 na%C3%AFve%zz")]
    if after_data:
        peer.http.send_headers(1, RESPONSE)
        peer.http.send_data(1, wire.grpc_message(b"one"))
        peer.http.send_headers(1, trailers, end_stream=True)
    else:
        peer.http.send_headers(1, [*RESPONSE, *trailers], end_stream=True)
    with pytest.raises(client.CallError, match="100% naïve%zz") as caught:
        list(peer.call.feed(peer.http.data_to_send()))
    assert caught.value.kind is kind


def test_a_message_before_the_end_is_not_lost() -> None:
    peer = Peer()
    peer.http.send_headers(1, RESPONSE)
    peer.http.send_data(1, wire.grpc_message(b"one"))
    peer.http.send_headers(1, [("grpc-status", "14")], end_stream=True)
    messages = peer.call.feed(peer.http.data_to_send())
    assert next(messages) == b"one"
    with pytest.raises(client.CallError):
        next(messages)


@pytest.mark.parametrize("way", ["http error", "reset", "goaway", "silent end", "garbage"])
def test_every_other_end_is_temporary(way: str) -> None:
    peer = Peer()
    if way == "http error":
        peer.http.send_headers(1, [(":status", "503")])
    elif way == "reset":
        peer.http.reset_stream(1)
    elif way == "goaway":
        peer.http.close_connection()
    elif way == "silent end":
        peer.http.send_headers(1, RESPONSE)
        peer.http.end_stream(1)
    data = bytes(9) if way == "garbage" else peer.http.data_to_send()
    with pytest.raises(client.CallError) as caught:
        list(peer.call.feed(data))
    assert caught.value.kind is FailureKind.TEMPORARY
