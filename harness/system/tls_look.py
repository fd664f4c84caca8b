"""Who answers at an address: one TLS handshake, checked against trust anchors and a name; and the Date header, where asked."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import email.utils
import os
import re
import socket
import ssl
import time
from dataclasses import dataclass

from harness import phrases
from harness.errors import HarnessError, PermissionError_
from harness.system import came_back
from harness.system import workload_api_der as der
from harness.system.control_plane import client_context, server_context
from harness.system.workload_api import Svid
from harness.values import HostPort

_DATE = re.compile(rb"(?im)^date:\s*(.+?)\r?$")
MAX_HEAD_BYTES = 16384


@dataclass(frozen=True, slots=True)
class Seen:
    """`refused`: why there is no connection; `untrusted`: why the certificate is not right. `not_after`: of the certificate.

    `connected`: something took the connection. `untried`: why no certificate was looked at, or nothing at all.
    `skew`: seconds by which the peer's clock is ahead of ours, None where it does not tell.
    """

    address: HostPort
    name: str
    refused: str = ""
    untrusted: str = ""
    connected: bool = False
    untried: str = ""
    early: bool = False
    """The certificate is not valid yet by our clock."""
    not_after: float = 0.0
    skew: float | None = None

    @property
    def good(self) -> bool:
        return self.connected and not self.untrusted and not self.untried


async def look(
    address: HostPort, name: str, anchors_pem: str, seconds: float, svid: Svid | None = None, uid: int | None = None
) -> Seen:
    """Never raises: what goes wrong is the answer. With an SVID an HTTP request is made, for the peer's clock.

    `uid`: whose connection it is to the firewall: the proxy's own is not redirected to the proxy.
    """
    try:
        async with asyncio.timeout(seconds):
            connected = await _connect(address, uid)
    except PermissionError_ as error:
        return Seen(address, name, untried=error.message)
    except TimeoutError:
        return Seen(address, name, refused=f"{phrases.NO_CONNECTION} within {seconds:g} s")
    except OSError as error:
        return Seen(address, name, refused=came_back.words(error))
    try:
        context = client_context(svid, anchors_pem, name) if svid else server_context(anchors_pem, name)
    except HarnessError as error:
        connected.close()
        return Seen(address, name, connected=True, untried=error.message)
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(sock=connected, ssl=context, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        early = error.verify_code == 9  # X509_V_ERR_CERT_NOT_YET_VALID
        return Seen(address, name, connected=True, untrusted=error.verify_message, early=early)
    except ssl.SSLError as error:
        return Seen(address, name, connected=True, untrusted=f"it speaks no TLS that is understood ({error.reason or error})")
    except TimeoutError:
        return Seen(address, name, refused=f"no answer to TLS within {seconds:g} s")
    except OSError as error:
        return Seen(address, name, refused=came_back.words(error))
    with contextlib.closing(writer):
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        skew = await _skew(reader, writer, name, seconds) if svid else None
        return Seen(address, name, connected=True, not_after=der.validity(certificate)[1], skew=skew)


async def _connect(address: HostPort, uid: int | None) -> socket.socket:
    """By the first address that answers. Raises OSError, and PermissionError_ when it may not be made as that user."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host.rstrip("."), address.port, type=socket.SOCK_STREAM)
    last = OSError("the name has no address")
    for family, kind, protocol, _, target in found:
        made = _socket_of(uid, family, kind, protocol)
        try:
            await loop.sock_connect(made, target)
        except OSError as error:
            made.close()
            last = error
        except asyncio.CancelledError:
            made.close()
            raise
        else:
            return made
    raise last


def _socket_of(uid: int | None, *kind: int) -> socket.socket:
    """A socket is its maker's for good, to the firewall too. setfsuid(2) is this thread's alone, and only for this moment."""
    libc = ctypes.CDLL(None)
    if uid is not None:
        libc.setfsuid(uid)
        if libc.setfsuid(-1) != uid:  # the only way to see that it failed: setfsuid(2)
            raise PermissionError_("needs root (the connection is made as the proxy's user): run it with sudo")
    try:
        made = socket.socket(*kind)
    finally:
        if uid is not None:
            libc.setfsuid(os.geteuid())
    made.setblocking(False)
    return made


async def _skew(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, seconds: float) -> float | None:
    try:
        async with asyncio.timeout(seconds):
            began = time.time()
            writer.write(f"GET /v1 HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES and (data := await reader.read(4096)):
                head += data
            ended = time.time()
    except (OSError, TimeoutError):
        return None
    found = _DATE.search(head)
    if found is None:
        return None
    try:
        told = email.utils.parsedate_to_datetime(found[1].decode("ascii")).timestamp()
    except (ValueError, UnicodeDecodeError):
        return None
    # The header has whole seconds, cut off: it may be up to one second behind the peer's clock.
    if told > ended:
        return told - ended
    return min(0.0, told + 1.0 - began)
