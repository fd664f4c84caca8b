"""A machine's own intermediate CA, made from a trust anchor on the administrator's machine, so that no root key lands on a VM.

On the `cryptography` library, which only `meshexp ca` imports. The path length is 1: SPIRE's server puts one CA of its own below.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from harness import reading
from harness.errors import ConfigError, Fault

PATH_LENGTH = 1
ORGANIZATION = "meshexp"
PINNED = x509.ObjectIdentifier("2.25.109101115.104")
"""A private extension of a machine's CA: the one SPIFFE ID that it may sign for, as a UTF8String. Peers pass it over."""
_UTF8_STRING = 0x0C
BACKDATE = datetime.timedelta(minutes=5)  # for the machine's clock
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_PEM = serialization.Encoding.PEM
_WHERE = (
    "after a plain `linkerd install` the anchor's key is in the Secret linkerd-identity-issuer; the documentation's page on the"
    " trust anchor has the commands, and what to do when nobody has the key"
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A trust anchor that can sign a machine's CA, and that CA one of SPIRE's."""

    certificate: x509.Certificate
    key: Key


def load_anchor(certificate: Path, key: Path) -> Anchor:
    """Raises ConfigError naming the file and what is wrong with it."""
    signer = _load_key(key)
    candidates = _load_certificates(certificate)
    found = next((c for c in candidates if _spki(c.public_key()) == _spki(signer.public_key())), None)
    if found is None:
        raise _fault(key, f"is not the key of any certificate in {certificate}")
    constraints = _basic_constraints(found)
    if constraints is None or not constraints.ca:
        raise _fault(certificate, "is no CA certificate")
    if constraints.path_length is not None and constraints.path_length <= PATH_LENGTH:
        raise _fault(
            certificate,
            f"has path length {constraints.path_length}, but two CAs must fit below it: the machine's and SPIRE's own",
            "`step` sets 1 by default. Linkerd takes several anchors: add one for machines, as the documentation on the trust"
            " anchor shows",
        )
    if found.subject != found.issuer:
        raise _fault(
            certificate, "is no root: the chain of what it signs would be incomplete", f"give Linkerd's trust anchor. {_WHERE}"
        )
    return Anchor(found, signer)


def issue(
    anchor: Anchor, name: str, public_key: PublicKey, days: float, now: datetime.datetime, pinned: str = ""
) -> x509.Certificate:
    """An intermediate for the machine `name`, which ends no later than its anchor; ConfigError if that has ended already.

    `pinned`: the only SPIFFE ID that the controller takes from it; any where it is empty.
    """
    last = min(now + datetime.timedelta(days=days), ends(anchor.certificate))
    if last <= now:
        raise _fault(Path("the trust anchor"), "has expired")
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(anchor.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(last)
        .add_extension(x509.BasicConstraints(ca=True, path_length=PATH_LENGTH), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key_identifier(anchor.certificate), critical=False)
    )
    if pinned:
        builder = builder.add_extension(x509.UnrecognizedExtension(PINNED, _utf8_string(pinned)), critical=False)
    return builder.sign(anchor.key, hashes.SHA256())


def pinned_to(certificate: x509.Certificate) -> str | None:
    """The SPIFFE ID that it is pinned to, as text; None where it is not, empty where the pin is no text.

    Raises ValueError, DuplicateExtension or UnsupportedGeneralNameType for extensions that no CA of ours has.
    """
    found = [e.value.value for e in certificate.extensions if isinstance(e.value, x509.UnrecognizedExtension) and e.oid == PINNED]
    if not found:
        return None
    der = found[0]
    more = der[1] & 0x7F if len(der) > 1 and der[1] & 0x80 else 0
    text = der[2 + more :].decode(errors="replace")
    return text if _utf8_string(text) == der else ""


def _utf8_string(text: str) -> bytes:
    """DER. A SPIFFE ID has at most 2,048 bytes, so two bytes hold each length."""
    data = text.encode()
    length = len(data).to_bytes(1 if len(data) < 256 else 2, "big")
    return bytes([_UTF8_STRING, *([] if len(data) < 128 else [0x80 | len(length)]), *length]) + data


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def read_intermediate(path: Path, anchor: Anchor) -> tuple[str, PublicKey, x509.Certificate]:
    """Name, public key and certificate of a machine's CA; ConfigError unless this anchor once signed it."""
    certificate, *_ = _load_certificates(path)
    if certificate.issuer != anchor.certificate.subject or not signed_by(certificate, anchor.certificate):
        raise _fault(path, "was not signed by this trust anchor")
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    key = certificate.public_key()
    if not names or not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise _fault(path, "is no certificate of `meshexp ca issue`")
    return str(names[0].value), key, certificate


def certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(_PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def begins(certificate: x509.Certificate) -> datetime.datetime:
    return _in_utc(certificate, "not_valid_before")


def ends(certificate: x509.Certificate) -> datetime.datetime:
    return _in_utc(certificate, "not_valid_after")


def _load_key(path: Path) -> Key:
    try:
        key = serialization.load_pem_private_key(reading.content(path), password=None)
    except OSError as error:
        raise _fault(path, f"cannot be read: {error.strerror}", _WHERE) from None
    except TypeError:
        raise _fault(path, "has a passphrase", "decrypt it for this command: `openssl pkey -in FILE -out OTHER`") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _fault(path, f"holds no key: {error}") from None
    if not isinstance(key, Key):
        raise _fault(path, "is neither an EC nor an RSA key", "SPIRE and linkerd2-proxy take no other")
    return key


def _load_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    end = b"-----END CERTIFICATE-----"
    try:
        parts = reading.content(path).split(end)[:-1]
        found = tuple(x509.load_pem_x509_certificate(part[part.index(b"-----BEGIN") :] + end) for part in parts)
    except OSError as error:
        raise _fault(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, x509.InvalidVersion) as error:
        raise _fault(path, f"holds a damaged certificate: {error}") from None
    if not found:
        raise _fault(path, "holds no certificate")
    return found


def _basic_constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The identifier that the issuer gives itself, which need not be the usual hash."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key has made the signature. Nothing else is looked at."""
    key, algorithm = issuer.public_key(), certificate.signature_hash_algorithm
    data = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(*data, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(*data, padding.PKCS1v15(), algorithm)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return b""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _in_utc(certificate: x509.Certificate, field: str) -> datetime.datetime:
    """With its time zone. Before cryptography 42 there is only the field without one; later releases warn about that field."""
    found: datetime.datetime | None = getattr(certificate, f"{field}_utc", None)
    if found is not None:
        return found
    naive: datetime.datetime = getattr(certificate, field)
    return naive.replace(tzinfo=datetime.UTC)


def _fault(path: Path, message: str, hint: str = "") -> ConfigError:
    return ConfigError((Fault(str(path), message, hint),), "meshexp ca")
