"""Names to addresses, and which of this machine's addresses speaks to one of them."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import threading
import weakref
from typing import Any

from harness.errors import TemporaryError
from harness.values import HostPort, IPAddress

LOOKUP_SECONDS = 3.0
"""The C library itself asks silent servers for up to a minute."""
_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: a bind takes no local port, of which there may be none left
_NO_SUCH = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

_Answer = asyncio.Future[list[Any]]
_PENDING: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[HostPort, _Answer]] = weakref.WeakKeyDictionary()


async def resolved(endpoint: HostPort, seconds: float = LOOKUP_SECONDS) -> tuple[IPAddress, ...]:
    """Of a name, one look-up is under way at a time: what comes after the wait is over, the next caller gets.

    Raises TemporaryError when the name leads nowhere, or nobody has answered in time.
    """
    tried = f"looking up {endpoint.host}"
    pending = _PENDING.setdefault(asyncio.get_running_loop(), {})
    if endpoint not in pending:
        pending[endpoint] = _look_up(endpoint)
    done, _ = await asyncio.wait({pending[endpoint]}, timeout=seconds)
    if not done:
        raise TemporaryError(f"no answer within {seconds:g} s", tried=tried)
    try:
        found = pending.pop(endpoint).result()
    except OSError as error:
        raise TemporaryError(str(error.strerror), tried=tried) from None
    except UnicodeError:
        raise TemporaryError("no name that the DNS can have", tried=tried) from None
    return tuple(_address(str(name)) for *_, (name, *_) in found)


def _look_up(endpoint: HostPort) -> _Answer:
    """In a thread that nobody waits for, also when this process ends."""
    loop = asyncio.get_running_loop()
    answer: _Answer = loop.create_future()

    def give(found: list[Any] | OSError | UnicodeError) -> None:
        if not answer.done():
            answer.set_exception(found) if isinstance(found, Exception) else answer.set_result(found)
            answer.exception()  # has been seen, if nobody asks any more

    def ask() -> None:
        found: list[Any] | OSError | UnicodeError
        try:
            found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            found = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(give, found)

    threading.Thread(target=ask, daemon=True).start()
    return answer


def has_ipv6(before: bool = True) -> bool:
    """Whether a program can listen on `::` and on `::1`: the sysctl disable_ipv6 of one link takes away its addresses alone.

    `before`: what it is when the kernel does not say.
    """
    try:
        for address in "::", "::1":
            with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                probe.bind((address, 0))
    except OSError as error:
        return False if error.errno in _NO_SUCH else before
    return True


def v6only(before: bool = False) -> bool:
    """Whether a socket for `::` takes no IPv4 unless its program asks for that: the sysctl net.ipv6.bindv6only, as it counts."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            return bool(probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    except OSError as error:
        return False if error.errno in _NO_SUCH else before


def source_of(target: IPAddress) -> IPAddress:
    """The local address that packets to `target` leave from. Nothing is sent. Raises TemporaryError with the kernel's reason."""
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(target), 9))
            return _address(str(probe.getsockname()[0]))
    except OSError as error:
        raise TemporaryError(str(error.strerror), tried=f"asking for the way to {target}") from None


def _address(text: str) -> IPAddress:
    return ipaddress.ip_address(text.partition("%")[0])
