"""Detached signatures by an ECDSA P-256 key, over a file, a manifest or an image (cosign's form with a key, not keyless)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import UnavailableError
from harness.system import files
from harness.system.oci import IntegrityError


def verify(digests: Iterable[str], signature: Path, key: Path) -> None:
    """Raises IntegrityError unless the signature by `key` (PEM, public) is over something that has one of the digests.

    `signature` holds either the signature itself, raw or in base64 (`cosign sign-blob`, `openssl dgst -sha256 -sign`), over the
    file or over the bytes of the manifest; or a line of `cosign download signature`, whose payload names the manifest's digest.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils
    except ImportError:
        raise UnavailableError(
            "a signature cannot be verified without cryptography", "apt install python3-cryptography"
        ) from None
    public, data, known = _public_key(key), files.bounded(signature), tuple(digests)
    cosign = _cosign(data)
    for body, payload in cosign:
        try:
            public.verify(body, payload, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            continue
        if _signed_digest(payload) in known:
            return
    if not cosign:
        body = _plain(data)
        for digest in known:
            try:
                public.verify(body, bytes.fromhex(digest.removeprefix("sha256:")), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
            except InvalidSignature:
                continue
            return
    raise IntegrityError(f"{signature} is no signature by {key} over {' or '.join(known)}", "nothing was installed")


def _public_key(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(files.bounded(path))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UnavailableError(f"{path} is no ECDSA P-256 public key in PEM form", "such as cosign.pub")
    return key


def _cosign(data: bytes) -> list[tuple[bytes, bytes]]:
    """Signature and payload of each line; empty if this is not cosign's form."""
    try:
        lines = [json.loads(line) for line in data.splitlines() if line.strip()]
        return [(_base64(line["Base64Signature"]), _base64(line["Payload"])) for line in lines]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _signed_digest(payload: bytes) -> str:
    try:
        return str(json.loads(payload)["critical"]["image"]["docker-manifest-digest"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _plain(data: bytes) -> bytes:
    try:
        return _base64(data.strip())
    except ValueError:
        return data


def _base64(text: str | bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
