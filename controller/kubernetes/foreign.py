"""JSON from the API server: with a bound on bytes, and as text that can be written again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

MOST_BYTES = 32 * 1024 * 1024
"""Of one answer, or of one event of a watch. The API server's own bound for one object is 3 MiB (etcd's is 1.5 MiB)."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(data: bytes | bytearray) -> Any:
    """Raises ValueError, also for what is nested too deeply and for numbers that JSON does not have."""
    try:
        value = json.loads(data, parse_constant=_not_json)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    return _writable(value) if _SURROGATE.search(data) else value


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _writable(value: Any) -> Any:
    """Half of a character (a lone surrogate) becomes a question mark: no encoding can write it."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_writable(one) for one in value]
    if isinstance(value, dict):
        return {_writable(key): _writable(one) for key, one in value.items()}
    return value


class Lines:
    """The lines of a stream that comes in pieces. What has no end yet is looked through once, however small the pieces are."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._half = bytearray()

    def feed(self, piece: bytes) -> Iterable[bytes]:
        """The lines that this piece ends. Raises ValueError when one has more bytes than it may."""
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield bytes(self._taken(end))
            self._half = bytearray()
        self._taken(rest)

    def _taken(self, part: bytes) -> bytearray:
        if len(self._half) + len(part) > self._most:
            raise ValueError(f"a line has more than {self._most} bytes")
        self._half += part
        return self._half
