"""As much DER as an X.509-SVID asks of its reader: where a certificate ends, and its dates. Malformed input raises ValueError."""

from __future__ import annotations

import calendar
import time


def split_der(data: bytes) -> tuple[bytes, ...]:
    """The certificates of a concatenation of DER certificates."""
    out, at = [], 0
    while at < len(data):
        tag, _, end = element(data, at)
        if tag != 0x30:
            raise ValueError(f"DER tag {tag:#x} where a certificate should begin")
        out.append(data[at:end])
        at = end
    return tuple(out)


def validity(certificate: bytes) -> tuple[float, float]:
    """notBefore and notAfter of a DER certificate, in epoch seconds (RFC 5280, section 4.1)."""
    _, at, _ = element(certificate, 0)  # Certificate
    _, at, _ = element(certificate, at)  # TBSCertificate
    tag, _, _ = element(certificate, at)
    skip = 4 if tag == 0xA0 else 3  # the version is optional; then serial number, signature algorithm, issuer
    for _ in range(skip):
        _, _, end = element(certificate, at)
        at = end
    tag, at, _ = element(certificate, at)
    if tag != 0x30:
        raise ValueError("the certificate has no validity where one belongs")
    not_before, at = _time(certificate, at)
    not_after, _ = _time(certificate, at)
    return not_before, not_after


def _time(data: bytes, at: int) -> tuple[float, int]:
    tag, start, end = element(data, at)
    text = data[start:end].decode("ascii")
    if tag == 0x17:  # UTCTime: two digits of the year, 50 to 99 being 19xx
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != 0x18:
        raise ValueError(f"DER tag {tag:#x} where a time belongs")
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))), end


def element(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start of the contents and end of the DER element at `at`."""
    if at + 2 > len(data):
        raise ValueError("DER is cut short")
    tag, length, start = data[at], data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4 or start + size > len(data):
            raise ValueError("DER with a length that it cannot have")
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if start + length > len(data):
        raise ValueError("DER is cut short")
    return tag, start, start + length
