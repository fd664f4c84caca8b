"""`meshexp ca`: what it issues, checked by OpenSSL, and what it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from harness import cli
from tests.workload_api_support import make_ca, write_pem


def openssl(*words: str, folder: Path) -> str:
    result = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def anchor(folder: Path, *extra: str, name: str = "anchor") -> None:
    openssl(
        *(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "365",
            "-subj",
            f"/CN={name}",
        ),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign", *extra, "-keyout", f"{name}.key", "-out", f"{name}.crt"),
        folder=folder,
    )


def meshexp(folder: Path, *words: str, name: str = "anchor") -> int:
    return cli.main(["ca", *words, "--trust-anchor", str(folder / f"{name}.crt"), "--key", str(folder / f"{name}.key")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    anchor(tmp_path)
    return tmp_path


def issued(folder: Path) -> x509.Certificate:
    assert meshexp(folder, "issue", "--name", "vm-1", "--out", str(folder / "vm-1")) == 0
    return x509.load_pem_x509_certificate((folder / "vm-1" / "ca.crt").read_bytes())


def test_it_has_the_machines_name_and_room_for_one_ca(folder: Path) -> None:
    issued(folder)
    text = openssl("x509", "-in", "vm-1/ca.crt", "-noout", "-text", folder=folder)
    assert "CN = vm-1" in text
    assert "CA:TRUE, pathlen:1" in text
    assert "Certificate Sign, CRL Sign" in text
    assert (folder / "vm-1" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert (folder / "vm-1" / "trust-anchors.pem").read_text() == (folder / "anchor.crt").read_text()
    assert "PRIVATE" not in (folder / "vm-1" / "ca.crt").read_text()


def test_openssl_takes_the_whole_chain_with_spires_ca_in_it(folder: Path) -> None:
    """anchor → machine → SPIRE's CA → leaf, by strict rules."""
    issued(folder)
    steps = (("vm-1/ca", "spire", "CA:TRUE", "keyCertSign"), ("spire", "leaf", "CA:FALSE", "digitalSignature"))
    for issuer, name, constraints, usage in steps:
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
            *("-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-addext", f"basicConstraints=critical,{constraints}"),
            *("-addext", f"keyUsage=critical,{usage}", "-keyout", f"{name}.key", "-out", f"{name}.crt"),
            folder=folder,
        )
    (folder / "between").write_text((folder / "vm-1" / "ca.crt").read_text() + (folder / "spire.crt").read_text())
    verify = ("verify", "-x509_strict", "-no-CApath", "-CAfile", "anchor.crt", "-untrusted", "between", "leaf.crt")
    assert openssl(*verify, folder=folder) == "leaf.crt: OK\n"


def test_it_ends_with_its_anchor_at_the_latest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert meshexp(folder, "issue", "--name", "vm", "--days", "9999", "--out", str(folder / "vm")) == 0
    assert "when the trust anchor ends too" in capsys.readouterr().out
    assert meshexp(folder, "issue", "--name", "vm-2", "--days", "9", "--out", str(folder / "vm-2")) == 0
    assert "when the trust anchor ends too" not in capsys.readouterr().out
    ends = [openssl("x509", "-in", name, "-noout", "-enddate", folder=folder) for name in ("vm/ca.crt", "anchor.crt")]
    assert ends[0] == ends[1]


def test_a_renewal_keeps_name_and_key_and_needs_no_private_key(folder: Path) -> None:
    before = issued(folder)
    key = openssl("x509", "-in", "vm-1/ca.crt", "-noout", "-pubkey", folder=folder)
    (folder / "vm-1" / "ca.key").unlink()
    assert meshexp(folder, "renew", "--out", str(folder / "vm-1"), "--days", "30") == 0
    after = x509.load_pem_x509_certificate((folder / "vm-1" / "ca.crt").read_bytes())
    assert after.subject == before.subject
    assert openssl("x509", "-in", "vm-1/ca.crt", "-noout", "-pubkey", folder=folder) == key
    assert after.serial_number != before.serial_number
    assert not (folder / "vm-1" / "ca.key").exists()


def test_what_it_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    issued(folder)
    anchor(folder, name="other")
    (folder / "elsewhere").mkdir()
    anchor(folder / "elsewhere")
    anchor(folder, "-addext", "basicConstraints=critical,CA:TRUE,pathlen:1", name="step")
    openssl("pkey", "-in", "anchor.key", "-aes128", "-passout", "pass:x", "-out", "secret.key", folder=folder)
    (folder / "secret.crt").write_bytes((folder / "anchor.crt").read_bytes())
    (folder / "mixed.crt").write_bytes((folder / "anchor.crt").read_bytes())
    (folder / "mixed.key").write_bytes((folder / "other.key").read_bytes())
    new = ("issue", "--name", "vm", "--out", str(folder / "new"))
    cases = (
        ("anchor", ("issue", "--name", "vm-1", "--out", str(folder / "vm-1")), 64, "is there already"),
        ("anchor", ("issue", "--name", "v" * 65, "--out", str(folder / "new")), 64, "64 printable"),
        ("anchor", (*new, "--days", "0"), 64, "--days"),
        ("other", ("renew", "--out", str(folder / "vm-1")), 78, "was not signed by this trust anchor"),
        ("elsewhere/anchor", ("renew", "--out", str(folder / "vm-1")), 78, "was not signed by this trust anchor"),
        ("step", new, 78, "path length 1"),
        ("secret", new, 78, "passphrase"),
        ("mixed", new, 78, "is not the key of any certificate"),
        ("absent", new, 78, "cannot be read"),
    )
    for name, words, code, text in cases:
        assert meshexp(folder, *words, name=name) == code, text
        assert text in capsys.readouterr().err
        assert not (folder / "new").exists(), text


def test_an_intermediate_is_no_anchor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    write_pem(tmp_path / "anchor.crt", make_ca("between", key, (make_ca("root", root_key), root_key)))
    write_pem(tmp_path / "anchor.key", key)
    assert meshexp(tmp_path, "issue", "--name", "vm", "--out", str(tmp_path / "vm")) == 78
    assert "is no root" in capsys.readouterr().err
