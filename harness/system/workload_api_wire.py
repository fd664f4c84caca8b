"""The two encodings around an X.509-SVID on its way: protobuf fields and gRPC messages. Malformed input raises ValueError."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_GRPC_PREFIX = struct.Struct(">BI")
MAX_MESSAGE_BYTES = (1 << 20) - 1
"""A response is about 2 KiB; one of a mebibyte is an error, not an identity."""


def grpc_message(body: bytes) -> bytes:
    return _GRPC_PREFIX.pack(0, len(body)) + body


def take_grpc_message(buffer: bytearray) -> bytes | None:
    """Takes the next whole message out of `buffer`; None when it is not all there yet."""
    if len(buffer) < _GRPC_PREFIX.size:
        return None
    compressed, length = _GRPC_PREFIX.unpack_from(buffer)
    if compressed:
        raise ValueError("a compressed message, which was not asked for")
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {length} bytes, more than {MAX_MESSAGE_BYTES}")
    end = _GRPC_PREFIX.size + length
    if len(buffer) < end:
        return None
    body = bytes(buffer[_GRPC_PREFIX.size : end])
    del buffer[:end]
    return body


def proto_field(number: int, value: bytes) -> bytes:
    """A length-delimited field (bytes, text or a message), as protobuf encodes it."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def proto_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message, in order; those of other kinds are skipped."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind, size = tag & 7, 0
        if kind == 0:
            _, at = _read_varint(data, at)
        elif kind == 2:
            size, at = _read_varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"protobuf wire type {kind}")
        if at + size > len(data):
            raise ValueError("a protobuf field ends after the message")
        if kind == 2:
            yield tag >> 3, data[at : at + size]
        at += size


def proto_number(data: bytes, number: int) -> int:
    """The number (varint) in field `number` of a message; 0, as protobuf leaves it out, when it is not there."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        if tag & 7 == 0:
            value, at = _read_varint(data, at)
            if tag >> 3 == number:
                return value
        elif tag & 7 == 2:
            size, at = _read_varint(data, at)
            at += size
        else:
            raise ValueError(f"protobuf wire type {tag & 7}")
    return 0


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a protobuf number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a protobuf number is longer than 64 bits")
