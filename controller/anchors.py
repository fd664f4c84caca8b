"""The trust anchors of the machines, and which of them count at a moment. Pure.

The TLS library looks at no time here (tls.py says why), and then it takes the first issuer that fits. So it gets no anchor that
is out of its time where a valid one fits as well: roots are renewed under their name, and with their key.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from cryptography import x509

from controller.admission import RefusedError
from controller.peer import spki_sha256
from harness import ca, phrases, trust
from harness.errors import ConfigError, Fault


@dataclass(frozen=True, slots=True)
class _Anchor:
    """`key_id`: what the certificates below name it by, besides its subject; None where it has none."""

    der: bytes
    subject: x509.Name
    key_id: bytes | None
    key: str
    begins: float
    ends: float

    def valid(self, wall: float) -> bool:
        return not self.state(wall)

    def state(self, wall: float) -> str:
        """What is wrong with its time; empty while it is valid."""
        return trust.state_of(self.begins, self.ends, wall)

    def fits_where(self, other: _Anchor) -> bool:
        """Whether OpenSSL takes it for the issuer of what names the other one (X509_check_issued)."""
        return self.subject == other.subject and (None in (self.key_id, other.key_id) or self.key_id == other.key_id)


class Anchors:
    """Raises ConfigError for a text without anchors."""

    def __init__(self, pem: str) -> None:
        self._all = _read(pem)

    def to_verify(self, wall: float) -> bytes:
        """For a TLS context, as DER. The valid ones first. Of those out of their time, only those that no valid one replaces.

        The others are there for the reason: what leads to one of them is refused with it, by `check`.
        """
        valid = [anchor for anchor in self._all if anchor.valid(wall)]
        others = [anchor for anchor in self._all if not any(one.fits_where(anchor) for one in valid)]
        return b"".join(anchor.der for anchor in (*valid, *others))

    def count(self, issuers: frozenset[str], wall: float) -> bool:
        """Whether one of these keys is an anchor's that is valid: an anchor that was renewed with its key is the same one."""
        return any(anchor.key in issuers and anchor.valid(wall) for anchor in self._all)

    def check(self, issuers: frozenset[str], wall: float) -> None:
        """Raises RefusedError unless they count."""
        if self.count(issuers, wall):
            return
        found = [anchor for anchor in self._all if anchor.key in issuers]
        if not found:
            hint = "connect again with one that leads to an anchor of the present"
            raise RefusedError("unauthenticated", "the trust anchor of the client certificate was removed", hint)
        state = phrases.EARLY if any(anchor.state(wall) == phrases.EARLY for anchor in found) else phrases.EXPIRED
        hint = "compare the two clocks: `timedatectl`; where they agree, the cluster's trust anchors have to be renewed"
        raise RefusedError(
            "unauthenticated", f"the trust anchor of the client certificate {state} by the controller's clock", hint
        )


def _read(pem: str) -> tuple[_Anchor, ...]:
    """As the TLS library reads them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem)
        found = tuple(map(_anchor, context.get_ca_certs(binary_form=True)))
    except (ValueError, TypeError, x509.InvalidVersion, ssl.SSLError) as error:  # TypeError: it is not ASCII
        raise _fault(str(error)) from None
    if not found:
        raise _fault("none of them is a CA's")
    return found


def _fault(why: str) -> ConfigError:
    return ConfigError((Fault("trust_anchors", f"not usable PEM certificates: {why}"),), "controller")


def _anchor(der: bytes) -> _Anchor:
    found = x509.load_der_x509_certificate(der)
    try:
        key_id = found.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        key_id = None
    return _Anchor(der, found.subject, key_id, spki_sha256(found), ca.begins(found).timestamp(), ca.ends(found).timestamp())
