"""The signing half of the embedded Workload API: a CA from PEM files, and X.509-SVIDs under it, on the `cryptography` library."""

from __future__ import annotations

import datetime
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness import reading, times, values
from harness.errors import ConfigError, Fault
from harness.system import workload_api_der as der
from harness.system.workload_api import Svid

BACKDATE_SECONDS = 10.0  # as SPIRE
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_CaKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """`certificates`: the signing CA's first, then each one's issuer."""

    certificates: tuple[x509.Certificate, ...]
    key: _CaKey

    @property
    def intermediates_der(self) -> tuple[bytes, ...]:
        return tuple(_der(certificate) for certificate in self.certificates if certificate.subject != certificate.issuer)

    @property
    def bundle_der(self) -> tuple[bytes, ...]:
        return (_der(self.certificates[-1]),)

    @property
    def expires_at(self) -> float:
        """Epoch seconds: when the first of the certificates ends."""
        return min(der.validity(_der(certificate))[1] for certificate in self.certificates)

    def issue(self, spiffe_id: values.SpiffeId, now: float, ttl: float) -> Svid:
        """A new key and SVID that lives `ttl` seconds from `now`, or until the CA's end; ConfigError when that is past."""
        not_after = min(now + ttl, self.expires_at)
        if not_after <= now:
            raise _fault("--ca-cert", "the CA certificate has expired")
        key = ec.generate_private_key(ec.SECP256R1())  # linkerd2-proxy signs with P-256 only
        issuer = self.certificates[0]
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)  # digitalSignature alone
        server_and_client = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "meshexp")]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_datetime(now - BACKDATE_SECONDS))
            .not_valid_after(_datetime(not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(server_and_client), critical=False)
            .add_extension(_authority_key_id(issuer, self.key), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))]), critical=False)
            .sign(self.key, _hash(self.key))
        )
        leaf = _der(certificate)
        return Svid(
            spiffe_id=spiffe_id,
            chain_der=(leaf, *self.intermediates_der),
            key_der=key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            bundle_der=self.bundle_der,
            expires_at=der.validity(leaf)[1],
        )


def load(certificates: Path, key: Path, now: float) -> Authority:
    """The CA in two PEM files; ConfigError for what could not sign an SVID that anyone accepts."""
    chain = _load_chain(certificates)
    for certificate in chain:
        _check_ca(certificate, now)
    for certificate, issuer in itertools.pairwise(chain):
        if not _signed_by(certificate, issuer):
            raise _fault("--ca-cert", f"{_name(certificate)} is not signed by the certificate after it, {_name(issuer)}")
    private = _load_key(key)
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        raise _fault("--ca-key", f"{key} is not the key of the first certificate in {certificates}, {_name(chain[0])}")
    return Authority(chain, private)


def _load_chain(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        found = _PEM.findall(reading.content(path))
        chain = tuple(x509.load_pem_x509_certificate(pem) for pem in found)
    except OSError as error:
        raise _fault("--ca-cert", f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise _fault("--ca-cert", f"{path} holds a certificate that cannot be read: {error}") from None
    if not chain:
        raise _fault("--ca-cert", f"{path} holds no PEM certificate")
    return chain


def _load_key(path: Path) -> _CaKey:
    try:
        key = serialization.load_pem_private_key(reading.content(path), password=None)
    except OSError as error:
        raise _fault("--ca-key", f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: the key is encrypted
        raise _fault("--ca-key", f"{path} holds no unencrypted PEM private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise _fault("--ca-key", f"{path} is neither an EC nor an RSA key")
    return key


def _check_ca(certificate: x509.Certificate, now: float) -> None:
    name = _name(certificate)
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        basic = False
    try:
        signs = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        signs = True
    if not (basic and signs):
        raise _fault("--ca-cert", f"{name} is not a CA certificate")
    not_before, not_after = der.validity(_der(certificate))
    if now >= not_after:
        raise _fault("--ca-cert", f"{name} expired on {times.moment(not_after)}")
    if now < not_before:
        raise _fault("--ca-cert", f"{name} is not valid before {times.moment(not_before)}; is the clock right?")


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    public, digest = issuer.public_key(), certificate.signature_hash_algorithm
    if certificate.issuer != issuer.subject or digest is None:
        return False
    try:
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(digest))
        elif isinstance(public, rsa.RSAPublicKey):
            public.verify(certificate.signature, certificate.tbs_certificate_bytes, padding.PKCS1v15(), digest)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _hash(key: _CaKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    """A digest as strong as the key: some verifiers take no other pairing of curve and digest."""
    if isinstance(key, rsa.RSAPrivateKey) or key.key_size <= 256:
        return hashes.SHA256()
    return hashes.SHA384() if key.key_size <= 384 else hashes.SHA512()


def _authority_key_id(issuer: x509.Certificate, key: _CaKey) -> x509.AuthorityKeyIdentifier:
    try:
        subject_key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key_id)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _name(certificate: x509.Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string() or 'nobody'}"


def _datetime(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _fault(option: str, message: str) -> ConfigError:
    return ConfigError((Fault(option, message),), "embedded Workload API")
