from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from harness import values
from harness.errors import ConfigError
from harness.system import workload_api_authority as authority
from harness.system import workload_api_der as der
from tests.workload_api_support import Key, make_ca, write_pem

ID = values.SpiffeId("root.linkerd.cluster.local", "/face")
EC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


def load(directory: Path, key: Key, *certificates: x509.Certificate) -> authority.Authority:
    pem = write_pem(directory / "ca.crt", *certificates)
    return authority.load(pem, write_pem(directory / "ca.key", key), time.time())


@pytest.mark.parametrize(
    "key",
    [
        EC,
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p256", "p384", "p521", "rsa"],
)
def test_an_svid_is_what_the_standard_and_the_proxy_ask_for(tmp_path: Path, key: Key) -> None:
    root = make_ca("root", key)
    now = float(int(time.time()))
    svid = load(tmp_path, key, root).issue(ID, now, 3600)
    (leaf,) = (x509.load_der_x509_certificate(data) for data in svid.chain_der)
    extensions = leaf.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(names) == [x509.UniformResourceIdentifier(str(ID))]
    assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign and not usage.value.key_encipherment
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert der.validity(svid.chain_der[0]) == (now - 10, now + 3600)
    assert svid.expires_at == now + 3600
    assert authority._signed_by(leaf, root)
    private = serialization.load_der_private_key(svid.key_der, password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp256r1"


def test_the_chain_holds_the_intermediates_and_the_bundle_the_root(tmp_path: Path) -> None:
    root = make_ca("root", OTHER)
    ca = load(tmp_path, EC, make_ca("intermediate", EC, (root, OTHER)), root)
    svid = ca.issue(ID, time.time(), 60)
    leaf, intermediate = (x509.load_der_x509_certificate(data) for data in svid.chain_der)
    (bundle,) = (x509.load_der_x509_certificate(data) for data in svid.bundle_der)
    assert bundle == root
    assert authority._signed_by(leaf, intermediate) and authority._signed_by(intermediate, root)


def test_no_svid_outlives_its_ca(tmp_path: Path) -> None:
    root = make_ca("root", OTHER, life=(-60, 100))
    ca = load(tmp_path, EC, make_ca("intermediate", EC, (root, OTHER)), root)
    assert ca.issue(ID, time.time(), 3600).expires_at == ca.expires_at <= time.time() + 100
    with pytest.raises(ConfigError, match="has expired"):
        ca.issue(ID, ca.expires_at, 3600)


def test_unusable_cas_are_refused_with_the_reason(tmp_path: Path) -> None:
    root, ed = make_ca("root", EC), ed25519.Ed25519PrivateKey.generate()
    cases: list[tuple[str, Key, tuple[x509.Certificate, ...]]] = [
        ("is not a CA certificate", EC, (make_ca("leaf", EC, ca=False),)),
        ("expired on", EC, (make_ca("old", EC, life=(-100, -10)),)),
        ("is not valid before", EC, (make_ca("new", EC, life=(600, 700)),)),
        ("is not the key of", OTHER, (root,)),
        ("is not the key of", rsa.generate_private_key(65537, 2048), (root,)),
        ("neither an EC nor an RSA key", ed, (make_ca("ed", ed),)),
        ("is not signed by", EC, (root, make_ca("stranger", OTHER))),
        ("is not signed by", EC, (make_ca("intermediate", EC, (make_ca("root", OTHER), EC)), make_ca("root", OTHER))),
        ("holds no PEM certificate", EC, ()),
    ]
    for message, key, certificates in cases:
        with pytest.raises(ConfigError, match=message):
            load(tmp_path, key, *certificates)


def test_unreadable_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    pem, empty = write_pem(tmp_path / "ca.crt", make_ca("root", EC)), write_pem(tmp_path / "empty")
    broken = tmp_path / "broken"
    broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    encrypted = tmp_path / "encrypted"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret"))
    encrypted.write_bytes(EC.private_bytes(*form))
    cases = [
        (tmp_path / "none", empty, "No such file"),
        (broken, empty, "cannot be read"),
        (pem, tmp_path / "none", "No such file"),
        (pem, empty, "no unencrypted PEM private key"),
        (pem, encrypted, "no unencrypted PEM private key"),
    ]
    for certificates, key, message in cases:
        with pytest.raises(ConfigError, match=message):
            authority.load(certificates, key, time.time())
