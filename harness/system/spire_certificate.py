"""The certificate that SPIRE's server signs under: what it says, and whether SPIRE can use it.

OpenSSL's command does the cryptography: a library of it would stay in the daemon's memory for a few moments' use, and the command
is there wherever ca-certificates is.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness import phrases, trust
from harness.errors import UnavailableError
from harness.system import commands, files
from harness.system import workload_api_der as der

_BASIC_CONSTRAINTS, _KEY_USAGE = bytes.fromhex("551d13"), bytes.fromhex("551d0f")  # 2.5.29.19 and 2.5.29.15
_KEY_CERT_SIGN = 0x04
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s+(.+?)-----END CERTIFICATE-----", re.DOTALL)
NODE_DAYS = "3650"


@dataclass(frozen=True, slots=True)
class Certificate:
    """`path_length` is None where no limit is set. Times are epoch seconds. A root is one that names itself as its issuer."""

    data: bytes = field(repr=False)
    subject: bytes = field(repr=False)
    issuer: bytes = field(repr=False)
    public_key: bytes = field(repr=False)
    not_before: float
    not_after: float
    may_sign: bool
    path_length: int | None

    @property
    def root(self) -> bool:
        return self.issuer == self.subject


def read_pem(text: bytes) -> tuple[Certificate, ...]:
    """The certificates of a PEM file, in its order; ValueError when one is damaged or there is none."""
    try:
        found = tuple(parse(base64.b64decode(body, validate=False)) for body in _PEM.findall(text))
    except binascii.Error as error:
        raise ValueError(f"a certificate in it is not base64: {error}") from None
    if not found:
        raise ValueError("there is no certificate in it")
    return found


def to_pem(certificates: Iterable[Certificate]) -> str:
    return "".join(ssl.DER_cert_to_PEM_cert(certificate.data) for certificate in certificates)


def fingerprints(pem: str) -> tuple[str, ...]:
    """SHA-256 of each, in hexadecimal, in their order; none where they cannot be read."""
    try:
        return tuple(hashlib.sha256(one.data).hexdigest() for one in read_pem(pem.encode()))
    except ValueError:
        return ()


_ATTRIBUTES = {b"\x55\x04\x03": "CN", b"\x55\x04\x06": "C", b"\x55\x04\x0a": "O", b"\x55\x04\x0b": "OU"}


def name_text(name: bytes) -> str:
    """A DER name for people, such as `CN=root.linkerd.cluster.local`; attributes that are seldom met have no name in it."""
    try:
        pairs = [_items(pair) for _, several in _items(_value(name)) for _, pair in _items(several)]
        return ", ".join(f"{_ATTRIBUTES.get(kind, '?')}={value.decode(errors='replace')}" for (_, kind), (_, value) in pairs)
    except ValueError:
        return "a name that cannot be read"


def parse(data: bytes) -> Certificate:
    """A DER certificate; ValueError when it is malformed (RFC 5280, section 4.1)."""
    _, start, _ = der.element(data, 0)
    _, at, end = der.element(data, start)
    fields = []
    while at < end:
        tag, inner, after = der.element(data, at)
        fields.append((tag, data[inner:after], data[at:after]))
        at = after
    if fields and fields[0][0] == 0xA0:  # the version is optional
        del fields[0]
    if len(fields) < 6:
        raise ValueError("the certificate is cut short")
    extensions = next((inner for tag, inner, _ in fields[6:] if tag == 0xA3), None)
    may_sign, path_length = _constraints(extensions)
    not_before, not_after = der.validity(data)
    return Certificate(data, fields[4][2], fields[2][2], fields[5][2], not_before, not_after, may_sign, path_length)


def _constraints(extensions: bytes | None) -> tuple[bool, int | None]:
    """Whether it is a CA that may sign certificates, and how many CAs may follow below it."""
    authority, signs, length = False, True, None
    for item in _items(_value(extensions)) if extensions else ():
        (_, identifier), *_, (_, value) = _items(item[1])
        if identifier == _BASIC_CONSTRAINTS:
            parts = _items(_value(value))
            authority = bool(parts) and parts[0] == (0x01, b"\xff")
            length = next((int.from_bytes(number, "big") for tag, number in parts if tag == 0x02), None)
        elif identifier == _KEY_USAGE:
            bits = _value(value)
            signs = len(bits) > 1 and bool(bits[1] & _KEY_CERT_SIGN)
    return authority and signs, length


def _value(data: bytes) -> bytes:
    _, start, end = der.element(data, 0)
    return data[start:end]


def _items(data: bytes) -> list[tuple[int, bytes]]:
    out, at = [], 0
    while at < len(data):
        tag, start, end = der.element(data, at)
        out.append((tag, data[start:end]))
        at = end
    return out


def check_signing(chain: tuple[Certificate, ...], anchors: tuple[Certificate, ...], wall: float) -> None:
    """Raises UnavailableError, saying what is wrong, unless SPIRE can put a CA of its own below `chain` (signing one first)."""
    above = [] if chain[-1].root else [anchor for anchor in anchors if anchor.subject == chain[-1].issuer]
    for place, certificate in enumerate((*chain, *above[:1])):
        which = "the signing certificate" if place == 0 else f"certificate {place + 1} of the chain"
        if place == len(chain):
            which = "the trust anchor above the signing certificate"
        if not certificate.may_sign:
            raise UnavailableError(f"{which} is no CA certificate", "make one with `meshexp ca issue` on the admin's machine")
        below = place + 1  # SPIRE's own CA, and what stands before this one
        if certificate.path_length is not None and certificate.path_length < below:
            raise UnavailableError(
                f"{which} has path length {certificate.path_length}, but {phrases.counted(below, 'CA')} must fit below it"
                " (SPIRE puts one of its own there)",
                "make one with `meshexp ca issue`; Linkerd's own issuer certificate has path length 0 and cannot be used",
            )
        if state := trust.state_of(certificate.not_before, certificate.not_after, wall):
            raise UnavailableError(
                f"{which} {state}", "run `meshexp ca renew` on the admin's machine, and check this machine's clock"
            )


async def verify(chain: Path, anchors: Path, key: Path, public_key: bytes) -> None:
    """Raises UnavailableError unless the chain (signing certificate first) leads to an anchor and the key is its own."""
    words = (
        "verify",
        "-partial_chain",
        "-no-CApath",
        "-no-CAstore",
        "-CAfile",
        str(anchors),
        "-untrusted",
        str(chain),
    )
    (code, _, problem), (key_code, found, _) = await asyncio.gather(
        _openssl(*words, foreign=(str(chain),)),
        _openssl("pkey", "-in", str(key), "-pubout", "-outform", "DER", "-passin", "pass:"),
    )
    if code:
        reason = re.search(r"error \d+ at \d+ depth lookup: *(.+)", problem)
        raise UnavailableError(
            f"the signing certificate does not lead to a trust anchor: {reason[1] if reason else problem.strip()}",
            "it must come from one of the roots in controller.trust_anchors",
        )
    if key_code:
        raise UnavailableError("the signing key cannot be read", "it must be one EC or RSA key in PEM, without a passphrase")
    if found != public_key:
        raise UnavailableError(
            "the signing key is not that of the signing certificate", "identity.local.ca_cert and ca_key must be a pair"
        )


async def make_node_pair(certificate: Path, key: Path) -> None:
    """A new key pair by which the agent proves to be this machine's own; the certificate is its own trust anchor."""
    code, _, problem = await _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", NODE_DAYS),
        *("-subj", "/CN=meshexp", "-addext", "keyUsage=critical,digitalSignature"),
        *("-addext", "basicConstraints=critical,CA:FALSE", "-keyout", str(key), "-out", str(certificate)),
    )
    if code:
        raise UnavailableError(f"no key pair for node attestation: {problem.strip()}")


async def _openssl(*words: str, foreign: tuple[str, ...] = ()) -> tuple[int, bytes, str]:
    done = await commands.run("openssl", *words, foreign=foreign)
    return done.code, done.output, done.said


def read_file(path: str, what: str) -> bytes:
    """Raises UnavailableError naming the file."""
    try:
        return files.bounded(Path(path))
    except UnavailableError as error:
        raise UnavailableError(f"{what} {error.message}") from None
