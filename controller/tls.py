"""The server's side of mutual TLS."""

from __future__ import annotations

import asyncio.sslproto
import os
import ssl
from collections.abc import Callable

from cryptography import x509

from harness import ca
from harness.errors import ConfigError, Fault

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h, for which Python has no name."""
READ_BUFFER_BYTES = 1024
"""Our messages are about as small; it is the size of the reads from the API server too. docs/scale.md has what each size costs.
OpenSSL has released its own buffers by the time that an answer is held (Python asks it to)."""


def shrink_buffers() -> None:
    """For every TLS connection that this process makes from now on: asyncio reads the size from the class, and has no option."""
    asyncio.sslproto.SSLProtocol.max_size = READ_BUFFER_BYTES


def server_context(chain: str, key: str, anchors: str | bytes) -> ssl.SSLContext:
    """TLS 1.3 only; a client certificate that leads to the trust anchors is required. PEM texts; the anchors may be DER.

    Of several anchors that fit, the first is taken, whatever its time. Raises ConfigError.
    """
    context = _demanding()
    _trust(context, anchors)
    try:
        load_pair(context, chain, key)
    except ssl.SSLError as error:
        raise ConfigError((Fault("tls_cert", f"not a usable certificate with its key: {error}"),), "controller") from None
    return context


def following(current: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """What to listen with: each handshake has the certificate and the anchors of `current()` at that moment.

    OpenSSL can add anchors to a context, and take none away.
    """
    front = _demanding()

    def choose(tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, initial: ssl.SSLContext) -> None:
        """Called for every handshake, also for one that names no server."""
        tls.context = current()

    front.sni_callback = choose
    return front


def client_context(anchors: str) -> ssl.SSLContext:
    """Raises ConfigError."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    _trust(context, anchors)
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # An anchor need not be a root (RFC 5280, 6.1.1), and Linkerd's proxies do not ask that it be one.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _demanding() -> ssl.SSLContext:
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # A handshake that fails is to the machine a connection that was reset: asyncio sends no alert. So the times are
    # looked at with each call (peer.Peer, anchors.Anchors), whose answer says that the clocks differ.
    context.verify_flags |= _NO_CHECK_TIME
    # A resumed session is not verified again, and would outlive the certificate that it began with.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    return context


def _trust(context: ssl.SSLContext, anchors: str | bytes) -> None:
    """Raises ConfigError, also for none at all."""
    try:
        context.load_verify_locations(cadata=anchors)
    except (ValueError, TypeError, ssl.SSLError) as error:
        raise ConfigError((Fault("trust_anchors", f"not usable PEM certificates: {error}"),), "controller") from None


def validity(chain: str) -> tuple[float, float]:
    """notBefore and notAfter of the first certificate of a PEM text, in epoch seconds. ValueError when it cannot be read."""
    try:
        leaf = x509.load_pem_x509_certificate(chain.encode())
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from None
    return ca.begins(leaf).timestamp(), ca.ends(leaf).timestamp()


def load_pair(context: ssl.SSLContext, chain: str, key: str) -> None:
    """PEM texts; the key reaches OpenSSL through a memfd, never a disk. Raises ssl.SSLError."""
    descriptor = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"{chain}\n{key}".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
