"""Byte streams that keep half-close: plain TCP, and TLS over it (asyncio's own TLS ends both directions at once)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
import struct
from typing import Protocol, cast

from demo.proxy.settings import SocketAddress
from harness.values import HostPort, peer_text

CHUNK = 65536
_SOL_IP, _SOL_IPV6, _SO_ORIGINAL_DST = 0, 41, 80  # linux/netfilter_ipv4.h; the IPv6 option has the same number


class Stream(Protocol):
    async def read(self) -> bytes:
        """Some bytes; none at the end. OSError when the connection broke."""

    async def write(self, data: bytes) -> None: ...

    async def end(self) -> None:
        """No more bytes from us; reading goes on."""

    def close(self) -> None: ...


class Plain:
    """`head`: bytes that were read already, to be read again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.head = b""

    async def read(self) -> bytes:
        head, self.head = self.head, b""
        return head or await self._reader.read(CHUNK)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def end(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def peer_address(self) -> str:
        host, port = self._writer.get_extra_info("peername")[:2]
        return str(HostPort(peer_text(host), port))

    def original_destination(self) -> SocketAddress:
        """Where the client wanted to go before the redirect; OSError if the kernel has no record."""
        sock = self._writer.get_extra_info("socket")
        local = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
        if local.version == 6 and local.ipv4_mapped is None:
            port, address = struct.unpack_from("!2xH4x16s", sock.getsockopt(_SOL_IPV6, _SO_ORIGINAL_DST, 28))
        else:
            port, address = struct.unpack_from("!2xH4s", sock.getsockopt(_SOL_IP, _SO_ORIGINAL_DST, 16))
        return SocketAddress(ipaddress.ip_address(address), port)


async def connect(host: str, port: int) -> Plain:
    return Plain(*await asyncio.open_connection(host, port, limit=CHUNK))


class Tls:
    """Handshake first. After a failed one, `received` holds all that came, for a caller that passes it on."""

    def __init__(self, plain: Plain, context: ssl.SSLContext, server_name: str | None = None) -> None:
        """A client with a `server_name`, else a server."""
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = server_name is None
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=server_name)
        self.received = b""

    async def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._plain.read()
                if not data:
                    raise ConnectionResetError("closed during the TLS handshake") from None
                self.received += data
                self._incoming.write(data)
            else:
                self.received = b""
                return await self._flush()

    async def refuse(self) -> None:
        """Sends the alert of a failed handshake."""
        with contextlib.suppress(OSError):
            await self._flush()

    @property
    def peer(self) -> str:
        """The URI of the peer's certificate; empty unless there is exactly one."""
        uris = self.names("URI")
        return uris[0] if len(uris) == 1 else ""

    def names(self, kind: str) -> list[str]:
        """Of the peer's certificate: `URI` or `DNS`."""
        found = cast(tuple[tuple[str, str], ...], (self._tls.getpeercert() or {}).get("subjectAltName", ()))
        return [value for of, value in found if of == kind]

    async def read(self) -> bytes:
        # All records that are there, so that none is left in `_incoming` when `end` makes OpenSSL look for the peer's own end.
        while True:
            found, ended = bytearray(), False
            try:
                while data := self._tls.read(CHUNK):
                    found += data
                ended = True
            except ssl.SSLZeroReturnError:
                ended = True
            except ssl.SSLWantReadError:
                pass
            await self._flush()
            if found or ended:
                return bytes(found)
            data = await self._plain.read()
            if not data:
                raise ConnectionResetError("closed without the end of TLS")
            self._incoming.write(data)

    async def write(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def end(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):  # the peer's own end is still to come
            self._tls.unwrap()
        await self._flush()

    def close(self) -> None:
        self._plain.close()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._plain.write(self._outgoing.read())
