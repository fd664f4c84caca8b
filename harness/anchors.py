"""Which trust anchors a machine goes by: those of its file, and those of the controller that were proven. Pure.

What the controller tells is a candidate until the cluster's servers have shown certificates that lead to it (daemon/anchors.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from harness.values import canonical_pem


@dataclass(frozen=True, slots=True)
class Adopted:
    """`pem`: proven, in canonical order. `file`: the digest of what controller.trust_anchors had at that moment."""

    pem: str = field(repr=False)
    file: str

    @classmethod
    def of(cls, pem: str, file_pem: str) -> Adopted:
        return cls(canonical_pem(pem), digest(file_pem))


def digest(pem: str) -> str:
    """Of a set of anchors, in whatever order."""
    return hashlib.sha256(canonical_pem(pem).encode()).hexdigest()


def in_force(file_pem: str, adopted: Adopted | None) -> str:
    """What the proxy gets."""
    return adopted.pem if adopted is not None else canonical_pem(file_pem)


def for_spire(file_pem: str, adopted: Adopted | None) -> str:
    """Those in force. A file that was replaced later counts too: a new invitation brings it with a certificate below it."""
    changed = adopted is not None and adopted.file != digest(file_pem)
    return with_file(file_pem, adopted) if changed else in_force(file_pem, adopted)


def with_file(file_pem: str, adopted: Adopted | None) -> str:
    """For the connection to the controller: the file's stay valid always, so that nothing it tells can lock this machine out."""
    return canonical_pem(f"{adopted.pem}\n{file_pem}" if adopted is not None else file_pem)
