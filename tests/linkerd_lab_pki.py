"""The lab's certificates, as an administrator would make them with openssl."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from harness import cli
from tests.mesh import openssl

_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "365")
_CA = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")


def root(folder: Path, name: str, common_name: str) -> None:
    """NAME.crt and NAME.key."""
    openssl("req", "-x509", *_NEW, *_CA, "-subj", f"/CN={common_name}", *_out(folder, name))


def intermediate(folder: Path, name: str, issuer: str, common_name: str) -> None:
    extensions = (*_CA, "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0", "-addext", f"subjectAltName=DNS:{common_name}")
    openssl("req", "-x509", *_NEW, *_issuer(folder, issuer), *extensions, "-subj", f"/CN={common_name}", *_out(folder, name))


def for_machine(folder: Path, anchor: Path, name: str) -> Path:
    """`folder` with what `meshexp ca issue` makes under `anchor`.{crt,key}: ca.crt, ca.key and trust-anchors.pem."""
    words = ("--trust-anchor", f"{anchor}.crt", "--key", f"{anchor}.key", "--out", str(folder))
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["ca", "issue", "--name", name, *words]) == 0
    return folder


def leaf(folder: Path, name: str, issuer: str, subject: str, names: str = "") -> None:
    extensions = ("-addext", "basicConstraints=critical,CA:FALSE", *(("-addext", f"subjectAltName={names}") if names else ()))
    openssl("req", "-x509", *_NEW, *_issuer(folder, issuer), *extensions, "-subj", subject, *_out(folder, name))


def service_account_key(folder: Path) -> None:
    """sa.key and sa.pub."""
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", f"{folder}/sa.key")
    openssl("pkey", "-in", f"{folder}/sa.key", "-pubout", "-out", f"{folder}/sa.pub")


def proxy_request(folder: Path, name: str) -> None:
    """key.p8 and csr.der, which a pod's proxy finds made when it starts."""
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{folder}/key.pem")
    openssl("pkcs8", "-topk8", "-nocrypt", "-in", f"{folder}/key.pem", "-outform", "DER", "-out", f"{folder}/key.p8")
    request = ("-subj", "/", "-addext", f"subjectAltName=DNS:{name}", "-outform", "DER", "-out", f"{folder}/csr.der")
    openssl("req", "-new", "-keyform", "DER", "-key", f"{folder}/key.p8", *request)


def _issuer(folder: Path, issuer: str) -> tuple[str, ...]:
    return "-CA", f"{folder}/{issuer}.crt", "-CAkey", f"{folder}/{issuer}.key"


def _out(folder: Path, name: str) -> tuple[str, ...]:
    return "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt"
