"""Signatures made by openssl and in cosign's forms, and everything that must not pass for one."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from harness.errors import UnavailableError
from harness.system import oci, proxy_signature

CONTENT = b"a manifest, or the binary itself"
DIGEST = oci.sha256(CONTENT)
OTHER = "sha256:" + "0" * 64


def openssl(*arguments: object, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, check=True).stdout


def keys(folder: Path, *kind: str) -> tuple[Path, Path]:
    """Private and public; ECDSA P-256 unless `kind` says otherwise."""
    folder.mkdir(exist_ok=True)
    private, public = folder / "key", folder / "key.pub"
    openssl("genpkey", *(kind or ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")), "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    return private, public


def sign(key: Path, data: bytes) -> bytes:
    return openssl("dgst", "-sha256", "-sign", key, stdin=data)


def cosign(key: Path, digest: str) -> bytes:
    """A line of `cosign download signature`."""
    image = {"docker-manifest-digest": digest}
    critical = {"identity": {"docker-reference": "x"}, "image": image, "type": "cosign container image signature"}
    payload = json.dumps({"critical": critical, "optional": None}).encode()
    fields = {"Base64Signature": sign(key, payload), "Payload": payload}
    return (
        json.dumps({name: base64.b64encode(value).decode() for name, value in fields.items()} | {"Cert": None}).encode() + b"\n"
    )


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return keys(tmp_path)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "signature"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("form", ["raw", "base64", "cosign", "second line"])
def test_right_signatures(form: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = pair
    data = {
        "raw": sign(private, CONTENT),
        "base64": base64.b64encode(sign(private, CONTENT)) + b"\n",
        "cosign": cosign(private, DIGEST),
        "second line": cosign(keys(tmp_path / "other")[0], DIGEST) + cosign(private, DIGEST),
    }[form]
    proxy_signature.verify((OTHER, DIGEST), write(tmp_path, data), public)


@pytest.mark.parametrize("form", ["raw", "cosign", "another image", "payload changed", "lines joined", "empty", "noise"])
def test_wrong_signatures(form: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = pair
    stranger = keys(tmp_path / "stranger")[0]
    changed = json.loads(cosign(private, OTHER))
    changed["Payload"] = json.loads(cosign(stranger, DIGEST))["Payload"]
    data = {
        "raw": sign(stranger, CONTENT),
        "cosign": cosign(stranger, DIGEST),
        "another image": cosign(private, OTHER),
        "payload changed": json.dumps(changed).encode(),
        "lines joined": cosign(private, OTHER) + cosign(stranger, DIGEST),
        "empty": b"",
        "noise": b"\xff\x00{}",
    }[form]
    with pytest.raises(oci.IntegrityError) as caught:
        proxy_signature.verify((DIGEST,), write(tmp_path, data), public)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "kind", [("-algorithm", "RSA"), ("-algorithm", "ED25519"), ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384")]
)
def test_other_kinds_of_keys_are_refused(kind: tuple[str, ...], tmp_path: Path) -> None:
    public = keys(tmp_path, *kind)[1]
    with pytest.raises(UnavailableError, match="no ECDSA P-256 public key"):
        proxy_signature.verify((DIGEST,), write(tmp_path, b"x"), public)


def test_files_that_are_not_there(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for signature, key in ((tmp_path / "none", pair[1]), (pair[1], tmp_path / "none")):
        with pytest.raises(UnavailableError, match="No such file"):
            proxy_signature.verify((DIGEST,), signature, key)
