"""Who is at the other end: the SPIFFE ID in a certificate that TLS has verified. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controller.admission import RefusedError
from harness.values import SpiffeId, parse_spiffe_id


@dataclass(frozen=True, slots=True)
class Peer:
    """`expires`: seconds since the epoch. `issuers`: SHA-256 of the public keys (SPKI) above the leaf, in hexadecimal."""

    identity: SpiffeId
    expires: float
    issuers: frozenset[str] = frozenset()


def peer_of(certificate: bytes, expires: float, chain: Iterable[bytes] = ()) -> Peer:
    """Raises RefusedError unless the certificate (DER) is a leaf X.509-SVID: SPIFFE's X509-SVID standard, sections 4 and 5.

    The chain, the times and the extended key usage have been checked by the TLS library.
    """
    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        constraints = [e.value for e in extensions if isinstance(e.value, x509.BasicConstraints)]
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise RefusedError("unauthenticated", f"the client certificate is not an X.509-SVID: {error}") from None
    if any(c.ca for c in constraints) or usage.key_cert_sign or usage.crl_sign or not usage.digital_signature:
        raise RefusedError("unauthenticated", "the client certificate is not a leaf X.509-SVID: it may sign certificates")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise RefusedError("unauthenticated", f"the client certificate has {len(uris)} URI names, and must have one")
    try:
        identity = parse_spiffe_id(uris[0])
    except ValueError as error:
        raise RefusedError("unauthenticated", str(error)) from None
    if not identity.path:
        raise RefusedError("unauthenticated", f"{identity} names a trust domain, not a workload")
    return Peer(identity, expires, frozenset(spki_sha256(x509.load_der_x509_certificate(der)) for der in chain))


def spki_sha256(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()
