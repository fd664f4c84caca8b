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
from dataclasses import dataclass, replace

from harness import decode, json_text, phrases, trust
from harness.errors import ConfigError, HarnessError, PermissionError_
from harness.messages import ErrorBody
from harness.system import came_back
from harness.system import workload_api_der as der
from harness.system.control_plane import client_context, server_context
from harness.system.workload_api import Svid
from harness.trust import Distrust
from harness.values import HostPort

_DATE = re.compile(rb"(?im)^date:\s*(.+?)\r?$")
MAX_ANSWER_BYTES = 16384


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
    why: Distrust | None = None
    """Of `untrusted`, where it is the certificate."""
    unwelcome: str = ""
    """Why it does not accept our certificate."""
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
        return Seen(address, name, connected=True, untrusted=trust.words(name, error), why=trust.of(error))
    except ssl.SSLError as error:
        return Seen(address, name, connected=True, untrusted=f"it speaks no TLS that is understood ({error.reason or error})")
    except TimeoutError:
        return Seen(address, name, refused=f"no answer to TLS within {seconds:g} s")
    except OSError as error:
        return Seen(address, name, refused=came_back.words(error))
    with contextlib.closing(writer):
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        seen = Seen(address, name, connected=True, not_after=der.validity(certificate)[1])
        if svid is None:
            return seen
        try:
            skew, unwelcome = await _ask(reader, writer, name, seconds)
            return replace(seen, skew=skew, unwelcome=unwelcome)
        except ssl.SSLError as error:  # with TLS 1.3 it comes after the handshake
            return replace(seen, unwelcome=trust.words(name, error))


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


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, seconds: float) -> tuple[float | None, str]:
    """`Seen.skew` and `Seen.unwelcome`. Raises ssl.SSLError when TLS says the second."""
    began, answer, ended = time.time(), b"", 0.0
    try:
        async with asyncio.timeout(seconds):
            writer.write(f"GET /v1 HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            while len(answer) < MAX_ANSWER_BYTES and (data := await reader.read(4096)):
                answer += data
                ended = ended or (time.time() if b"\r\n\r\n" in answer else 0.0)
    except (OSError, TimeoutError) as error:
        if refused := came_back.distrust(error):
            raise refused from None
    head, end, body = answer.partition(b"\r\n\r\n")
    return (_skew(head, began, ended), _unwelcome(head, body)) if end else (None, "")


def _unwelcome(head: bytes, body: bytes) -> str:
    if head.split(b" ")[1:2] != [b"401"]:
        return ""
    try:
        return decode.decode(ErrorBody, json_text.loads(body), source="the answer", lenient=True).message
    except (ValueError, ConfigError):
        return "HTTP 401"


def _skew(head: bytes, began: float, ended: float) -> float | None:
    found = _DATE.search(head)
    if found is None:
        return None
    try:
        told = email.utils.parsedate_to_datetime(found[1].decode("ascii")).timestamp()
    except (ValueError, OverflowError):
        return None
    # The header has whole seconds, cut off: it may be up to one second behind the peer's clock.
    if told > ended:
        return told - ended
    return min(0.0, told + 1.0 - began)
