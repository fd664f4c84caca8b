"""Invitations as the controller knows them: annotations of their group, written by whoever may edit the group. Pure.

`invitation.workload.meshexp.io/<id>`: what the token's digest is, until when, for which SPIFFE IDs, and the key of the
intermediate that goes with it. That intermediate's certificate says itself for which SPIFFE ID it is (harness.ca.PINNED), and
peer.py checks it. The pin here is for the intermediates of version 0.1, whose certificates say their group only.
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
from controller.model import Key
from harness.decode import decode, encode
from harness.errors import ConfigError
from harness.values import Spiffe, SpiffeId

log = structlog.get_logger()
PREFIX = "invitation.workload.meshexp.io/"
_ID_CHARACTERS = 16
_REMEMBERED_PINS = 4096
_NAME_CHARACTERS = 64
_RANDOM_CHARACTERS = 9
"""At the end of the name of an invitation's CA: a dash and 8 hexadecimal digits."""
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
            except (ValueError, ConfigError, RecursionError) as error:
                log.warning("invitation passed over", group=str(group.key), annotation=name, error=str(error))


def find(group: ExternalGroup, token: str, identity: SpiffeId) -> Ticket:
    """The ticket of that token, in time or not. Raises RefusedError unless it is one of the group's, for this identity."""
    digest = hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
    found = next(
        (t for t in tickets(group) if hmac.compare_digest(t.token_sha256.encode(errors="surrogatepass"), digest.encode())), None
    )
    if found is None:
        raise RefusedError("invitation-invalid", f"{group.key} knows no such invitation", "ask for a new one")
    if identity not in found.identities:
        raise RefusedError("invitation-invalid", f"invitation {found.id} is not for {identity}")
    return found


def ca_name(group: Key, random: str) -> str:
    """Of the CA that goes with an invitation: a common name has at most 64 characters. `random`: 8 of them."""
    return f"{group.namespace}-{group.name}-{random}"[-_NAME_CHARACTERS:]


Pins = Mapping[tuple[str, str], frozenset[SpiffeId]]


def check_pins(pins: Pins, unpinned: Iterable[tuple[str, str]], identity: SpiffeId) -> None:
    """Raises RefusedError when a CA that an annotation pins to some SPIFFE IDs has signed for another. `unpinned`: Peer's."""
    for key, name in unpinned:
        allowed = pins.get((key, name[:-_RANDOM_CHARACTERS]))
        if allowed is not None and identity not in allowed:
            raise RefusedError("identity-not-allowed", f"the machine whose CA signed this certificate may not be {identity}")


def remembered(before: Pins, now: Pins) -> dict[tuple[str, str], frozenset[SpiffeId]]:
    """With those of before that no group has any more: the key of a deleted group's machine is out there. The latest ones."""
    kept = {key: allowed for key, allowed in before.items() if key not in now}
    return dict([*kept.items()][-_REMEMBERED_PINS:]) | dict(now)


def pins_of(groups: Iterable[ExternalGroup]) -> dict[tuple[str, str], frozenset[SpiffeId]]:
    """By key, and by the beginning of the name that a CA of that group has: so a group pins the CAs that were made for it, as
    their certificates say, and no other's.

    Of several tickets of a group with one key, the last word is the narrowest. Where the names of two groups begin alike
    (`a-b` and `c`, `a` and `b-c`), neither narrows what the other has.
    """
    pins: dict[tuple[str, str], frozenset[SpiffeId]] = {}
    for group in groups:
        start = ca_name(group.key, "x" * (_RANDOM_CHARACTERS - 1))[:-_RANDOM_CHARACTERS]
        own: dict[str, frozenset[SpiffeId]] = {}
        for one in tickets(group):
            if one.pin:
                allowed = frozenset(one.identities)
                own[one.pin] = own[one.pin] & allowed if one.pin in own else allowed
        for key, allowed in own.items():
            pins[key, start] = pins.get((key, start), frozenset()) | allowed
    return pins
