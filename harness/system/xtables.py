"""Legacy xtables seen from outside, without python-iptables: is a nat table there, and does it hold rules."""

from __future__ import annotations

import ctypes
import socket
import struct
from pathlib import Path

from harness.rules import Family

_GET_INFO = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO
_INFO = struct.Struct("=32s13I")  # name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
_EMPTY_NAT = 5  # the policies of its four chains, and the end marker
_SOCKETS = {
    Family.IPV4: ("ip_tables_names", socket.AF_INET, socket.IPPROTO_IP),
    Family.IPV6: ("ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6),
}


def nat_entries(family: Family) -> int:
    """How many entries (rules, and two a chain) the legacy nat table holds; 0 without one, and asking never makes one.

    Raises PermissionError without CAP_NET_RAW and CAP_NET_ADMIN.
    """
    names, domain, level = _SOCKETS[family]
    try:
        if "nat" not in Path("/proc/thread-self/net", names).read_text().split():
            return 0
    except FileNotFoundError:
        return 0
    with socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        return int(_INFO.unpack(_nat_info(raw.fileno(), level))[-2]) - _EMPTY_NAT


def _nat_info(descriptor: int, level: int) -> bytes:
    """By libc, because the kernel reads the table's name from the buffer, which socket.getsockopt cannot fill."""
    buffer = ctypes.create_string_buffer(_INFO.pack(b"nat", *[0] * 13), _INFO.size)
    length = ctypes.c_uint32(_INFO.size)
    library = ctypes.CDLL(None, use_errno=True)
    if library.getsockopt(descriptor, level, _GET_INFO, buffer, ctypes.byref(length)):
        code = ctypes.get_errno()
        raise OSError(code, f"getsockopt IPT_SO_GET_INFO: errno {code}")
    return buffer.raw
