from __future__ import annotations

import asyncio
import datetime
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from harness import problems, values
from harness.errors import TemporaryError, UnavailableError
from harness.system import workload_api as api
from harness.system import workload_api_client as client
from harness.system import workload_api_der as der
from harness.system import workload_api_wire as wire
from harness.system.workload_api_child import FRAME_HEADER
from tests.workload_api_support import make_ca

KEY = ec.generate_private_key(ec.SECP256R1())
LONG = make_ca("ends with four digits of the year", KEY, life=(-86400, 40 * 365 * 86400))
SHORT = make_ca("ends with two", KEY)


def to_der(certificate: object) -> bytes:
    data = certificate.public_bytes(serialization.Encoding.DER)  # type: ignore[attr-defined]
    assert isinstance(data, bytes)
    return data


def svid(path: str = "/face", key: bytes = b"the private key") -> api.Svid:
    chain = (to_der(SHORT), to_der(LONG))
    return api.Svid(values.SpiffeId("example.org", path), chain, key, (to_der(LONG),), der.validity(chain[0])[1])


def frame(kind: bytes, payload: bytes) -> bytes:
    return FRAME_HEADER.pack(len(payload), kind) + payload


def read(data: bytes) -> list[api.Frame]:
    async def scenario() -> list[api.Frame]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return [item async for item in api.read_frames(reader)]

    return asyncio.run(scenario())


def test_a_response_survives_the_wire() -> None:
    svids = (svid(), svid("/other"))
    assert api.parse_response(api.encode_response(svids)) == svids


def test_unknown_fields_and_federated_bundles_are_skipped() -> None:
    extra = b"\x40\x96\x01" + b"\x4d\x01\x02\x03\x04" + b"\x51" + bytes(8) + wire.proto_field(3, b"\x0a\x01x\x12\x01y")
    assert api.parse_response(extra + api.encode_response([svid()]) + extra) == (svid(),)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="no svid"),
        pytest.param(wire.proto_field(1, wire.proto_field(1, b"spiffe://example.org/face")), id="no certificate"),
        pytest.param(api.encode_response([svid(key=b"")]), id="no key"),
        pytest.param(api.encode_response([svid("/a/../b")]), id="no SPIFFE ID"),
        pytest.param(wire.proto_field(1, wire.proto_field(1, b"\xff")), id="not text"),
        pytest.param(b"\x0a\x7f", id="longer than it is"),
        pytest.param(b"\x0b", id="a group"),
    ],
)
def test_an_unusable_response_is_a_temporary_error(data: bytes) -> None:
    with pytest.raises(TemporaryError):
        api.parse_response(data)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_break_the_parser(noise: bytes, at: int) -> None:
    whole = api.encode_response([svid()])
    for data in (noise, whole[:at], whole[:at] + noise + whole[at + len(noise) :]):
        try:
            api.parse_response(data)
        except TemporaryError as error:
            assert b"the private key" not in str(error).encode()


@pytest.mark.parametrize("certificate", [SHORT, LONG])
def test_the_dates_are_those_that_cryptography_reads(certificate: object) -> None:
    def seconds(name: str) -> float:
        value = getattr(certificate, f"not_valid_{name}_utc", None) or getattr(certificate, f"not_valid_{name}")
        return float(value.replace(tzinfo=datetime.UTC).timestamp())

    assert der.validity(to_der(certificate)) == (seconds("before"), seconds("after"))


def test_utc_times_from_1950_on_are_of_the_last_century() -> None:
    assert der._time(b"\x17\x0d700101000010Z", 0)[0] == 10
    assert der._time(b"\x17\x0d490101000000Z", 0)[0] == der._time(b"\x18\x0f20490101000000Z", 0)[0]


def test_the_repr_shows_no_key() -> None:
    text = repr(api.Delivered((svid(),)))
    assert "private" not in text
    assert "/face" in text


def test_frames_tell_svids_and_failures_apart_and_end_with_the_child() -> None:
    failure = json.dumps({"kind": "denied", "message": "no identity issued"}).encode()
    good = frame(b"S", api.encode_response([svid()]))
    assert read(good + frame(b"E", failure) + good[:50]) == [
        api.Delivered((svid(),)),
        api.Failed(api.FailureKind.DENIED, "no identity issued"),
    ]


def test_an_unusable_response_does_not_end_the_frames() -> None:
    bad, good = read(frame(b"S", b"\x0b") + frame(b"S", api.encode_response([svid()])))
    assert isinstance(bad, api.Failed) and bad.kind is api.FailureKind.TEMPORARY
    assert good == api.Delivered((svid(),))


@pytest.mark.parametrize(
    "data",
    [
        FRAME_HEADER.pack(api.MAX_FRAME_BYTES + 1, b"S"),
        frame(b"X", b""),
        frame(b"E", b"[]"),
        frame(b"E", b"{}"),
        frame(b"E", b'{"kind": "tired", "message": ""}'),
        b"Traceback (most recent call last)",
    ],
)
def test_what_no_child_writes_is_an_error(data: bytes) -> None:
    with pytest.raises(TemporaryError):
        read(data)


def test_a_missing_socket_can_be_told_from_other_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "none" / "api.sock"):
        with pytest.raises(UnavailableError, match=f"^{problems.IDENTITY_SOCKET_MISSING.title}: ") as caught:
            next(api.stream(str(path)))
        assert f"`ss -xlp src {path}`" in caught.value.hint


def test_a_path_too_long_for_a_socket_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(client.CallError) as caught:
        next(client.responses(str(tmp_path / ("x" * 108))))
    assert caught.value.kind is api.FailureKind.INVALID


def test_messages_come_whole_however_they_arrive() -> None:
    stream, buffer, seen = wire.grpc_message(b"one") + wire.grpc_message(b"") + wire.grpc_message(b"two" * 100), bytearray(), []
    for byte in stream:
        buffer.append(byte)
        while (message := wire.take_grpc_message(buffer)) is not None:
            seen.append(message)
    assert seen == [b"one", b"", b"two" * 100]


@pytest.mark.parametrize("prefix", [b"\x01\x00\x00\x00\x01", b"\x00\xff\xff\xff\xff"])
def test_compressed_or_huge_messages_are_refused(prefix: bytes) -> None:
    with pytest.raises(ValueError, match=r"a .*message"):
        wire.take_grpc_message(bytearray(prefix))
