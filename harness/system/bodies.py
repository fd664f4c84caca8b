"""Bodies of HTTP answers, within a bound: read as they come, never decoded, so a small answer cannot grow when it is unpacked.

How long an answer may take is bounded by its caller, for the whole of it (tasks.within): httpx bounds each step only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx

from harness.errors import UnavailableError

AS_IT_IS = {"Accept-Encoding": "identity"}
"""For every request. A server that packs its answer all the same is not understood."""
LONGEST_LINE = 1 << 16


async def whole(response: httpx.Response, most: int, what: str) -> bytes:
    """Of a response that is read as a stream. Raises UnavailableError when there are more than `most` bytes."""
    found = bytearray()
    async for chunk in response.aiter_raw():
        found += chunk
        _check(found, most, what)
    return bytes(found)


def whole_blocking(chunks: Iterator[bytes], most: int, what: str) -> bytes:
    """As `whole`, of what a blocking client gives."""
    found = bytearray()
    for chunk in chunks:
        found += chunk
        _check(found, most, what)
    return bytes(found)


async def beginning(response: httpx.Response, most: int) -> None:
    """Reads at most so many bytes, and what follows a chunk more; the rest is left. As the kubelet does with a probe's answer."""
    left = most
    async for chunk in response.aiter_raw():
        left -= len(chunk)
        if left <= 0:
            return


async def search(response: httpx.Response, wanted: re.Pattern[bytes], most: int) -> re.Match[bytes] | None:
    """Looks for a pattern that spans no line end; None when it is not within `most` bytes. Little more than a line is held."""
    read = 0
    left = b""
    async for chunk in response.aiter_raw():
        text = left + chunk
        whole_lines = text.rfind(b"\n") + 1
        if found := wanted.search(text, 0, whole_lines):
            return found
        left = text[whole_lines:][-LONGEST_LINE:]
        read += len(chunk)
        if read > most:
            return None
    return wanted.search(left)


def _check(found: bytearray, most: int, what: str) -> None:
    if len(found) > most:
        raise UnavailableError(f"{what} has more than {most} bytes")
