"""Certificates, and the encodings that they come in."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controller import linkerd_identity
from controller.admission import RefusedError
from controller.anchors import Anchors
from controller.peer import peer_of
from harness import probe
from harness.errors import ConfigError, HarnessError
from harness.system import probe_grpc, spire_api, spire_certificate, workload_api, workload_api_client
from harness.system import workload_api_child as child
from harness.system import workload_api_der as der
from harness.system import workload_api_wire as wire
from harness.values import parse_spiffe_id
from tests.controller_support import TRUST_DOMAIN, Authority
from tests.fuzz.engine import Target


@functools.cache
def _pem() -> tuple[bytes, bytes]:
    """An anchor, and a machine's certificate below it."""
    with tempfile.TemporaryDirectory() as name:
        authority = Authority(Path(name))
        leaf, _ = authority.issue("face", f"spiffe://{TRUST_DOMAIN}/face")
        return Path(authority.anchors).read_bytes(), Path(leaf).read_bytes()


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


_ANCHOR, _LEAF = (_der(pem) for pem in _pem())
_SVID = workload_api.Svid(parse_spiffe_id(f"spiffe://{TRUST_DOMAIN}/face"), (_LEAF, _ANCHOR), b"key", (_ANCHOR,), 2e9)
_SVIDS = workload_api.encode_response([_SVID])


def _served(*messages: bytes) -> bytes:
    """What a gRPC server answers, with its HTTP/2 around it."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    client.initiate_connection()
    server.initiate_connection()
    client.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "x")], end_stream=True)
    server.receive_data(client.data_to_send())
    server.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    for message in messages:
        server.send_data(1, wire.grpc_message(message))
    server.send_headers(1, [("grpc-status", "0"), ("grpc-message", "all%20is well")], end_stream=True)
    return server.data_to_send()


_ANSWER = _served(_SVIDS)
_REFUSAL = _served(b"\x08\x01")


def _certificates(data: bytes) -> None:
    der.split_der(data)
    spire_certificate.parse(data)


def _chain(data: bytes) -> None:
    """What an operator's files hold."""
    found = spire_certificate.read_pem(data)
    spire_certificate.to_pem(found)
    spire_certificate.check_signing(found, found, 1.7e9)


def _peer(data: bytes) -> None:
    peer_of(data, (_ANCHOR,), (_ANCHOR, data), 1.7e9)


def _message(data: bytes) -> None:
    buffer = bytearray(data)
    while (message := wire.take_grpc_message(buffer)) is not None:
        list(wire.proto_fields(message))
        wire.proto_number(message, 1)


def _fetched(data: bytes) -> None:
    call = workload_api_client.Call()
    for response in call.feed(data):
        workload_api.parse_response(response)


def _health(data: bytes) -> None:
    call = probe_grpc._Call(probe.Grpc(9000, "127.0.0.1", "face"))
    call.outgoing()
    call.feed(data)


async def _child(data: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    async for _ in workload_api.read_frames(reader):
        pass


class _Answer:
    """What a connection gives: the input, and then its end. What is written to it is lost."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, most: int) -> bytes:
        found, self._data = self._data[:most], self._data[most:]
        return found

    def write(self, data: bytes) -> None:
        pass


async def _identity(data: bytes) -> None:
    answer = _Answer(data)
    writer: Any = answer
    fields = await linkerd_identity.unary(answer.read, writer, "/x", "linkerd-identity", b"message")
    list(linkerd_identity._fields(fields))


_FRAME = child.FRAME_HEADER.pack(len(_SVIDS), child.RESPONSE) + _SVIDS
_FAILURE = b'{"kind": "denied", "message": "no identity issued"}'
_FAILED = child.FRAME_HEADER.pack(len(_FAILURE), child.FAILURE) + _FAILURE
_ENTRY = wire.proto_field(1, wire.proto_field(1, b"\x08\x06\x12\x05taken"))
TARGETS = (
    Target("der", _certificates, (_LEAF, _LEAF + _ANCHOR), (ValueError,)),
    Target("pem", _chain, (b"".join(_pem()), _pem()[0]), (ValueError, HarnessError)),
    Target("peer", _peer, (_LEAF, _ANCHOR), (RefusedError,)),
    Target("anchors", lambda data: Anchors(data.decode(errors="replace")).to_verify(1.7e9), _pem(), (ConfigError,)),
    Target("grpc", _message, (wire.grpc_message(_SVIDS), wire.grpc_message(b"\x08\x01") * 2), (ValueError,)),
    Target("workload_api.response", workload_api.parse_response, (_SVIDS,), (HarnessError,)),
    Target("workload_api.call", _fetched, (_ANSWER, _REFUSAL), (workload_api_client.CallError, HarnessError)),
    Target("workload_api.child", lambda data: asyncio.run(_child(data)), (_FRAME, _FAILED), (HarnessError,)),
    Target("probe.grpc", _health, (_ANSWER, _REFUSAL), (h2.exceptions.ProtocolError, ValueError)),
    Target("spire.entry", spire_api._status, (_ENTRY, _SVIDS), (HarnessError,)),
    Target("linkerd.identity", lambda data: asyncio.run(_identity(data)), (_ANSWER, _REFUSAL), (HarnessError,)),
)
