"""Invitations as the controller knows them: annotations of their group, written by whoever may edit the group. Pure.

`invitation.workload.meshexp.io/<id>`: what the token's digest is, until when, for which SPIFFE IDs, and the key of the
intermediate that goes with it. The pin outlives the invitation: that key signs for those SPIFFE IDs only, ever.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog

from controller.admission import RefusedError
from controller.manifest import ExternalGroup
from harness.decode import decode, encode
from harness.errors import ConfigError
from harness.values import Spiffe, SpiffeId

log = structlog.get_logger()
PREFIX = "invitation.workload.meshexp.io/"
_ID_CHARACTERS = 16
REMEMBERED_SECONDS = 10 * 365 * 86400.0
"""Who used one: as good as for ever, since after a stop, a reboot or a long absence that machine shows it again."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """`pin`: SHA-256 of the intermediate's public key (SPKI, DER), hexadecimal; empty where there is none of its own."""

    token_sha256: str
    expires: float
    identities: tuple[Spiffe, ...]
    pin: str = ""

    @property
    def id(self) -> str:
        return self.token_sha256[:_ID_CHARACTERS]

    @property
    def annotation(self) -> tuple[str, str]:
        return PREFIX + self.id, json.dumps(encode(self))


def ticket(token: str, expires: float, identities: tuple[SpiffeId, ...], pin: str = "") -> Ticket:
    return Ticket(hashlib.sha256(token.encode()).hexdigest(), expires, identities, pin)


def tickets(group: ExternalGroup) -> Iterable[Ticket]:
    for name, value in group.metadata.annotations.items():
        if name.startswith(PREFIX):
            try:
                yield decode(Ticket, json.loads(value), source=name, lenient=True)
            except (ValueError, ConfigError) as error:
                log.warning("invitation passed over", group=str(group.key), annotation=name, error=str(error))


def find(group: ExternalGroup, token: str, identity: SpiffeId) -> Ticket:
    """The ticket of that token, in time or not. Raises RefusedError unless it is one of the group's, for this identity."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    found = next((t for t in tickets(group) if hmac.compare_digest(t.token_sha256, digest)), None)
    if found is None:
        raise RefusedError("invitation-invalid", f"{group.key} knows no such invitation", "ask for a new one")
    if identity not in found.identities:
        raise RefusedError("invitation-invalid", f"invitation {found.id} is not for {identity}")
    return found


def check_pins(pins: Mapping[str, frozenset[SpiffeId]], issuers: Iterable[str], identity: SpiffeId) -> None:
    """Raises RefusedError when an intermediate that is pinned to some SPIFFE IDs has signed for another."""
    for issuer in issuers:
        allowed = pins.get(issuer)
        if allowed is not None and identity not in allowed:
            raise RefusedError("identity-not-allowed", f"the machine whose CA signed this certificate may not be {identity}")


def pins_of(groups: Iterable[ExternalGroup]) -> dict[str, frozenset[SpiffeId]]:
    """Of several tickets with one key (a renewed one), the last word is the narrowest."""
    pins: dict[str, frozenset[SpiffeId]] = {}
    for group in groups:
        for one in tickets(group):
            if one.pin:
                allowed = frozenset(one.identities)
                pins[one.pin] = pins[one.pin] & allowed if one.pin in pins else allowed
    return pins
