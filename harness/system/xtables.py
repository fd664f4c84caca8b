"""Legacy xtables seen from outside, without python-iptables and without making a table by asking. Blocking, microseconds."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.rules import Family

_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_… and IP6T_SO_…
_INFO = struct.Struct("=32s13I")  # name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
_ENTRIES = struct.Struct("=32sI4x")  # name, size, and the entries follow aligned to 8
_EMPTY_NAT = 5  # the policies of its four chains, and the end marker
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where in struct ipt_entry or ip6t_entry the length of the entry and its counters (16 bytes) are."""

    names: str
    domain: socket.AddressFamily
    level: int
    next_offset: int
    counters: int


_LAYOUTS = {
    Family.IPV4: _Layout("ip_tables_names", socket.AF_INET, socket.IPPROTO_IP, 90, 96),
    Family.IPV6: _Layout("ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6, 142, 152),
}


@dataclass(frozen=True, slots=True)
class NatTable:
    """The nat table of one family: `entries` counts rules, and two a chain; `image` are its bytes without the counters."""

    entries: int = 0
    image: bytes = b""

    def names(self, prefix: str) -> bool:
        """Whether any chain or jump in it begins with `prefix`."""
        return prefix.encode() in self.image


def nat_table(family: Family) -> NatTable:
    """Raises OSError, which is PermissionError without CAP_NET_RAW and CAP_NET_ADMIN."""
    layout = _LAYOUTS[family]
    try:
        if "nat" not in Path("/proc/thread-self/net", layout.names).read_text().split():
            return NatTable()
    except FileNotFoundError:
        return NatTable()
    with socket.socket(layout.domain, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP) as raw:
        for attempt in range(_ATTEMPTS):
            *_, entries, size = _INFO.unpack(_ask(raw, layout, _GET_INFO, _INFO.pack(b"nat", *[0] * 13)))
            request = _ENTRIES.pack(b"nat", size) + bytes(size)
            try:
                answer = _ask(raw, layout, _GET_ENTRIES, request)
            except OSError as error:
                if error.errno != errno.EAGAIN or attempt == _ATTEMPTS - 1:
                    raise
                continue
            return NatTable(entries - _EMPTY_NAT, _without_counters(bytearray(answer[_ENTRIES.size :]), layout))
    raise AssertionError("unreachable")


def _ask(raw: socket.socket, layout: _Layout, option: int, request: bytes) -> bytes:
    """getsockopt by libc, because the kernel reads its argument from the buffer, which socket.getsockopt cannot fill."""
    buffer, length = ctypes.create_string_buffer(request, len(request)), ctypes.c_uint32(len(request))
    if ctypes.CDLL(None, use_errno=True).getsockopt(raw.fileno(), layout.level, option, buffer, ctypes.byref(length)):
        code = ctypes.get_errno()
        raise OSError(code, f"reading the legacy nat table: {os.strerror(code)}")
    return buffer.raw


def _without_counters(table: bytearray, layout: _Layout) -> bytes:
    """Raises OSError for what is no row of entries."""
    offset = 0
    while offset < len(table):
        length = int.from_bytes(table[offset + layout.next_offset :][:2], sys.byteorder)
        if length < layout.counters + 16 or offset + length > len(table):
            raise OSError(errno.EBADMSG, "the legacy nat table has an entry of no possible length")
        table[offset + layout.counters : offset + layout.counters + 16] = bytes(16)
        offset += length
    return bytes(table)
