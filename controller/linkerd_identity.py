"""The controller's own certificate from Linkerd's identity service, as every proxy gets its own: Certify, one gRPC call."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller import tls
from harness import trust
from harness.backoff import Backoff
from harness.clock import Clock
from harness.errors import ConfigError, TemporaryError
from harness.values import HostPort

log = structlog.get_logger()
METHOD = "/io.linkerd.proxy.identity.Identity/Certify"
RENEW_AT = 0.7
"""Of a certificate's life, as Linkerd's proxies do."""
_CALL_SECONDS = 10.0
_CLOCK = "is the clock of this pod's node right? `timedatectl` shows it there"
_BACKOFF = Backoff(first=1.0, most=15.0)
_LEAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM; `expires`: seconds since the epoch."""

    chain: str
    key: str
    expires: float


@dataclass(frozen=True, slots=True)
class Identity:
    """`name`: what is asked for, that of our service account. `token`: file of a token for the audience identity.l5d.io."""

    name: str
    token: str
    address: HostPort
    server_name: str


class Certifier:
    """`anchors` is asked for each call: they may change; the identity service is verified against them."""

    def __init__(self, identity: Identity, anchors: Callable[[], str], clock: Clock) -> None:
        self._identity, self._anchors, self._clock = identity, anchors, clock

    async def first(self) -> Certificate:
        """Tries until there is one."""
        failures = 0
        while True:
            try:
                return await self.certify()
            except TemporaryError as error:
                log.warning("no certificate from Linkerd", error=error.message, hint=error.hint)
                failures += 1
                await self._clock.sleep(_BACKOFF.pause(failures))

    async def keep(self, current: Certificate, use: Callable[[Certificate], None]) -> None:
        """Without end: each renewed certificate is given to `use`."""
        while True:
            left = current.expires - self._clock.wall()
            await self._clock.sleep(max(_LEAST_SECONDS, RENEW_AT * left))
            current = await self.first()
            use(current)
            log.info("certificate renewed", seconds=round(current.expires - self._clock.wall()))

    async def certify(self) -> Certificate:
        """Raises TemporaryError."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.SubjectAlternativeName([x509.DNSName(self._identity.name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(name, critical=False)
        csr = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        try:
            token = await asyncio.to_thread(pathlib.Path(self._identity.token).read_bytes)
            context = tls.client_context(self._anchors())
        except (OSError, ConfigError) as error:
            raise TemporaryError(f"cannot ask for a certificate: {error}") from None
        message = b"".join(
            _field(number, value) for number, value in enumerate((self._identity.name.encode(), token.strip(), csr), 1)
        )
        answer = await self._call(context, message)
        fields = list(_fields(answer))
        chain = [value for number, value in fields if number == 1] + [value for number, value in fields if number == 2]
        try:
            pem = "".join(ssl.DER_cert_to_PEM_cert(der) for der in chain)
            _, ends = tls.validity(pem)
        except (ValueError, IndexError) as error:
            raise TemporaryError(f"the identity service gave no certificate: {error}") from None
        plain = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        return Certificate(pem, plain, ends)

    async def _call(self, context: ssl.SSLContext, message: bytes) -> bytes:
        address = self._identity.address
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                reader, writer = await asyncio.open_connection(
                    address.host, address.port, ssl=context, server_hostname=self._identity.server_name
                )
                with contextlib.closing(writer.transport):
                    return await unary(reader.read, writer, METHOD, self._identity.server_name, message)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            tried = f"asking {address} for a certificate"
            if isinstance(error, ssl.SSLError) and (why := trust.of(error)):
                hint = _CLOCK if why.of_clock else "are the trust anchors Linkerd's present ones?"
                raise TemporaryError(trust.words(self._identity.server_name, error), hint, tried=tried) from None
            raise TemporaryError(str(error) or "no answer", "is Linkerd's identity service up?", tried=tried) from None


async def unary(
    read: Callable[[int], Awaitable[bytes]], writer: asyncio.StreamWriter, method: str, authority: str, message: bytes
) -> bytes:
    """One gRPC call on a fresh connection; the answer's message. Raises TemporaryError."""
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    http.initiate_connection()
    stream = http.get_next_available_stream_id()
    pseudo = [(":method", "POST"), (":scheme", "https"), (":path", method), (":authority", authority)]
    http.send_headers(stream, [*pseudo, ("content-type", "application/grpc"), ("te", "trailers")])
    http.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    body, headers = b"", dict[str, str]()
    try:
        while True:
            writer.write(http.data_to_send())
            data = await read(65536)
            if not data:
                raise TemporaryError("the identity service closed the connection")
            for event in http.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    headers |= {str(name): str(value) for name, value in event.headers or ()}
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                    http.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                elif isinstance(event, h2.events.StreamEnded):
                    return _message(headers, body)
                elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    raise TemporaryError(f"the identity service broke the call off ({event.error_code})")
    except (h2.exceptions.ProtocolError, ValueError) as error:  # ValueError: a header that is no text
        raise TemporaryError(f"the identity service does not speak HTTP/2: {error}") from None


def _message(headers: dict[str, str], body: bytes) -> bytes:
    status = headers.get("grpc-status", f"HTTP {headers.get(':status')}")
    if status != "0":
        raise TemporaryError(f"the identity service refuses, status {status}: {headers.get('grpc-message', '')}")
    if len(body) < 5 or len(body) != 5 + int.from_bytes(body[1:5], "big"):
        raise TemporaryError("the identity service sent what is not one message")
    return body[5:]


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message, which are all that an answer has. Raises TemporaryError."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        size, at = _read_varint(message, at)
        if tag & 7 != 2 or at + size > len(message):
            raise TemporaryError("the identity service sent what is not protobuf")
        yield tag >> 3, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message):
        byte = message[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if not byte & 0x80:
            return value, at
    raise TemporaryError("the identity service sent half a message")
