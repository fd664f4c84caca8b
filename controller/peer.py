"""Who is at the other end: the SPIFFE ID in a certificate that TLS has verified. Pure."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from controller.admission import RefusedError
from harness import ca, trust
from harness.values import SpiffeId, parse_spiffe_id

_NO_SVID = (
    *(ValueError, x509.InvalidVersion, x509.ExtensionNotFound),
    *(x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
"""What the library raises of a certificate that it reads, and that is no X.509-SVID."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Seconds since the epoch: `expires` of the leaf; `valid_from` and `valid_until` of the time in which all of its chain below
    the trust anchor is valid. The anchor's own time is looked at apart (anchors.Anchors): it may be renewed meanwhile.

    `issuers`: SHA-256 of the public keys (SPKI) above the leaf, in hexadecimal. `unpinned`: of those between leaf and anchor
    the CAs that `meshexp` made and whose certificates name no SPIFFE ID, each with the name in its certificate.
    """

    identity: SpiffeId
    expires: float
    issuers: frozenset[str] = frozenset()
    valid_from: float = 0.0
    valid_until: float = 0.0
    unpinned: tuple[tuple[str, str], ...] = ()

    def check_time(self, wall: float) -> None:
        """Raises RefusedError. TLS has not looked at it, and a connection may outlive a certificate."""
        state = trust.state_of(self.valid_from, self.valid_until, wall)
        if state:
            hint = "compare the two clocks: `timedatectl`; where they agree, connect again with a renewed certificate"
            raise RefusedError("unauthenticated", f"the client certificate {state} by the controller's clock", hint)


def peer_of(certificate: bytes, chain: Iterable[bytes] = (), sent: Iterable[bytes] = (), wall: float = 0.0) -> Peer:
    """Raises RefusedError unless the certificate (DER) is a leaf X.509-SVID: SPIFFE's X509-SVID standard, sections 4 and 5.

    The chain and the extended key usage have been checked by the TLS library: `chain` is what it found above the leaf, up to the
    trust anchor, and `sent` all that the peer has shown. The times are left to `Peer.check_time`.
    """
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        extensions = leaf.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        constraints = [e.value for e in extensions if isinstance(e.value, x509.BasicConstraints)]
    except _NO_SVID as error:
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
    above = [x509.load_der_x509_certificate(der) for der in chain]
    between = [_renewed(one, issuer, sent, wall) for one, issuer in itertools.pairwise(above)]
    unpinned = tuple(found for one in between if (found := _check_pin(one, identity)))
    first = max(ca.begins(one) for one in (leaf, *between)).timestamp()
    last = min(ca.ends(one) for one in (leaf, *between)).timestamp()
    return Peer(identity, ca.ends(leaf).timestamp(), frozenset(map(spki_sha256, above)), first, last, unpinned)


def _check_pin(certificate: x509.Certificate, identity: SpiffeId) -> tuple[str, str] | None:
    """Raises RefusedError when this CA is pinned to another SPIFFE ID. Its key and name where `meshexp` made it without a pin.

    The trust anchor's key has signed the pin: nobody who edits a group can make, change or end it, and it lasts as long as the
    certificate.
    """
    try:
        pinned = ca.pinned_to(certificate)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None  # made by another program: ours are all readable
    if pinned is not None and pinned != str(identity):
        raise RefusedError(
            "identity-not-allowed",
            f"the machine whose CA signed this certificate may not be {identity}",
            f"that CA was made for {pinned}: ask for a new invitation",
        )
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    makers = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    ours = pinned is None and names and [maker.value for maker in makers] == [ca.ORGANIZATION]
    return (spki_sha256(certificate), str(names[0].value)) if ours else None


def _renewed(found: x509.Certificate, issuer: x509.Certificate, sent: Iterable[bytes], wall: float) -> x509.Certificate:
    """The certificate of the same CA that is valid, where the peer sent one besides `found`, which is not.

    The TLS library looks at no time here (tls.py says why), and so it takes the first that fits. The other one must be as good in
    all else: of the same issuer, for the same key, with the same limits.
    """
    if _valid(found, wall):
        return found
    for der in sent:
        with contextlib.suppress(*_NO_SVID, UnsupportedAlgorithm):
            other = x509.load_der_x509_certificate(der)
            if _valid(other, wall) and _limits(other) == _limits(found) and ca.signed_by(other, issuer):
                return other
    return found


def _valid(certificate: x509.Certificate, wall: float) -> bool:
    return not trust.state_of(ca.begins(certificate).timestamp(), ca.ends(certificate).timestamp(), wall)


def _limits(certificate: x509.Certificate) -> tuple[object, ...]:
    """Who it is, and what it may sign: all but its time, its number and how it names its issuer."""
    extensions = {e.oid: e for e in certificate.extensions if not isinstance(e.value, x509.AuthorityKeyIdentifier)}
    return certificate.subject, certificate.issuer, spki_sha256(certificate), extensions


def spki_sha256(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()
