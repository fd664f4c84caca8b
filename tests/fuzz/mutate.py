"""Bytes that differ from right ones: a bit, a number, a part that is there twice or not at all."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

MOST_BYTES = 64 << 10
_NUMBER = re.compile(rb"\d+")
_ROUNDS = (1, 1, 1, 2, 2, 3, 5, 9)
_NUMBERS = (
    *(b"", b"0", b"-1", b"1.2.3.4", b"1e999", b"0x10", b"9" * 20, b"9" * 400, b"9" * 5000, b"NaN"),
    *("²".encode(), "٣".encode(), b"65536", b"4294967296", b"1_0", b"+1", b" 1"),
)
_WORDS = (
    *(b"\0", b"\n", b"\r\n", b"\t", b" ", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x1b[31m", "é".encode(), b"\xe2\x80\xa8"),
    *(b"'", b'"', b"\\", b"%", b"*", b"..", b"/", b":", b"-", b"=", b"@", b"!", b"#", b"{", b"}", b"[", b"]", b","),
    *(b"[" * 2000, b'{"":' * 1500, b"a" * 70, b"*a" * 40, b"\\ud800", b"\\u0000", b"null", b"true", b"1e999"),
    *(b"0.0.0.0/0", b"::", b"::ffff:1.2.3.4", b"fe80::1%eth0", b"..svc", b"&a [*a,*a]", b"<<: *a", b"!!python/x"),
)
_SMALL = (0, 1, 2, 3, 4, 7, 8, 15, 16, 127, 128, 255)
_Change = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def changed(source: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` with some changes."""
    data = bytearray(source.choice(seeds))
    for _ in range(source.choice(_ROUNDS)):
        source.choice(_CHANGES)(source, data, seeds)
        del data[MOST_BYTES:]
    return bytes(data)


def _place(source: random.Random, data: bytearray) -> int:
    return source.randrange(len(data) + 1)


def _part(source: random.Random, data: bytearray) -> slice:
    first = _place(source, data)
    return slice(first, min(len(data), first + source.choice((1, 1, 2, 4, 8, 16, 64, 256))))


def _flip(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _set(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[source.randrange(len(data))] = source.choice((*_SMALL, source.randrange(256)))


def _integer(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    """Of two or four bytes, in either order: a length, mostly."""
    size = source.choice((2, 4))
    value = source.choice((*_SMALL, len(data), 1 << (8 * size - 1), (1 << 8 * size) - 1)) % (1 << 8 * size)
    first = _place(source, data)
    data[first : first + size] = value.to_bytes(size, source.choice(("little", "big")))


def _digits(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    found = list(_NUMBER.finditer(data))
    if found:
        first, last = source.choice(found).span()
        data[first:last] = source.choice(_NUMBERS)


def _remove(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    del data[_part(source, data)]


def _repeat(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    part = _part(source, data)
    data[part.start : part.start] = bytes(data[part]) * source.choice((1, 1, 2, 10, 500))


def _insert(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    first = _place(source, data)
    data[first:first] = source.choice(_WORDS)


def _splice(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = bytearray(source.choice(seeds))
    data[_part(source, data)] = other[_part(source, other)]


def _cut(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    del data[_place(source, data) :]


def _lines(source: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    """One line fewer, or a word of one."""
    lines = bytes(data).split(b"\n")
    number = source.randrange(len(lines))
    words = lines[number].split(b" ")
    if source.random() < 0.5:
        del lines[number]
    else:
        del words[source.randrange(len(words))]
        lines[number] = b" ".join(words)
    data[:] = b"\n".join(lines)


_CHANGES: tuple[_Change, ...] = (
    *(_flip, _set, _integer, _digits, _digits, _remove, _repeat, _insert, _insert, _splice, _cut, _lines),
)
