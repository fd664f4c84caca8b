"""Which SPIFFE ID a machine's own CA may sign for: its certificate says so, and no edit of a group changes it."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from controller import tickets
from controller.admission import RefusedError
from controller.fleet import Fleet
from controller.manifest import GROUP_API, ExternalGroup
from controller.model import Key
from controller.peer import Peer, peer_of, spki_sha256
from controller.rendering import Times
from harness import ca
from harness.messages import ClusterFacts
from harness.values import SpiffeId, parse_spiffe_id
from tests.controller_support import TRUST_DOMAIN, StandingClock, group, make_certificate
from tests.unit.controller_world import refused

A = Key("tenant-a", "face")
B = Key("tenant-b", "face")
OURS = SpiffeId(TRUST_DOMAIN, "/tenant-a/face")
THEIRS = SpiffeId(TRUST_DOMAIN, "/tenant-b/face")
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


class Made:
    """An anchor, a machine's CA below it, and what that one signs."""

    def __init__(self, name: str, pinned: str = "") -> None:
        root = ca.new_key()
        anchor = make_certificate("anchor", "anchor", root, root, -60, 86400, ca=True, uris=())
        self.anchor = ca.Anchor(anchor, root)
        self.key = ca.new_key()
        self.certificate = ca.issue(self.anchor, name, self.key.public_key(), 90, NOW, pinned)

    @property
    def pin(self) -> str:
        return spki_sha256(self.certificate)

    def peer(self, identity: SpiffeId, between: Iterable[x509.Certificate] = (), signer: object = None) -> Peer:
        """What the controller knows of who shows a leaf of that ID, with the CAs `between` leaf and machine's CA."""
        key = ca.new_key()
        signer = signer or self.key
        leaf = make_certificate("leaf", "x", key, signer, -60, 3600, ca=False, uris=(str(identity),))
        chain = (*between, self.certificate, self.anchor.certificate)
        return peer_of(_der(leaf), map(_der, chain), (), NOW.timestamp())


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def with_pin(key: Key, pin: str, *identities: SpiffeId) -> ExternalGroup:
    plain = group(key.name, key.namespace, GROUP_API)
    ticket = tickets.ticket(f"token-{pin}", 0.0, identities, pin)
    return dataclasses.replace(plain, metadata=dataclasses.replace(plain.metadata, annotations=dict([ticket.annotation])))


def fleet(*groups: ExternalGroup) -> Fleet:
    made = Fleet(StandingClock(), Times(), ClusterFacts())
    for one in groups:
        made.set_group(one)
    return made


def check(made: Fleet, peer: Peer) -> None:
    tickets.check_pins(made.pins, peer.unpinned, peer.identity)


def invited(key: Key = A, pinned: str = "") -> Made:
    """0.1 wrote no pin into the certificate."""
    return Made(tickets.ca_name(key, "0123abcd"), pinned)


def test_a_pinned_ca_signs_for_its_own_id_only_whatever_any_group_says() -> None:
    made = invited(A, str(OURS))
    hostile = with_pin(B, made.pin, THEIRS)
    for groups in ((), (hostile,), (with_pin(A, made.pin, THEIRS),)):
        check(fleet(*groups), made.peer(OURS))
        with refused("identity-not-allowed"):
            made.peer(THEIRS)


def test_a_ca_below_a_pinned_one_does_not_end_the_pin() -> None:
    made = invited(A, str(OURS))
    key = ca.new_key()
    below = make_certificate("below", "x", key, made.key, -60, 3600, ca=True, uris=())
    assert made.peer(OURS, (below,), key).identity == OURS
    with refused("identity-not-allowed"):
        made.peer(THEIRS, (below,), key)


@pytest.mark.parametrize("length", [20, 127, 128, 255, 256, 2000])
def test_a_pin_survives_the_certificate_and_a_renewal(length: int) -> None:
    pinned = "spiffe://td/".ljust(length, "x")
    made = invited(A, pinned)
    assert ca.pinned_to(x509.load_der_x509_certificate(_der(made.certificate))) == pinned
    assert str(parse_spiffe_id(pinned)) == ca.pinned_to(made.certificate)
    assert ca.pinned_to(invited().certificate) is None


@pytest.mark.parametrize("value", [b"", b"\x0c", b"\x0c\x05abc", b"\x0c\xff", b"\x04\x01a", b"\x0c\x81\x01a", b"\x0c\x01\xff"])
def test_a_pin_that_is_no_text_admits_nobody(value: bytes) -> None:
    made = invited()
    builder = x509.CertificateBuilder(
        made.certificate.issuer,
        made.certificate.subject,
        made.key.public_key(),
        1,
        NOW,
        NOW + datetime.timedelta(days=1),
        [x509.Extension(ca.PINNED, False, x509.UnrecognizedExtension(ca.PINNED, value))],
    )
    made.certificate = builder.sign(made.anchor.key, hashes.SHA256())
    with refused("identity-not-allowed"):
        made.peer(OURS)


def test_the_edit_of_one_group_does_not_lock_out_the_fleet() -> None:
    """tenant-b pins each key that it can see: the anchor's, the issuer's, and those of tenant-a's machines."""
    old = invited()
    by_hand = Made("vm1")
    issuer = Made("identity.linkerd.cluster.local")
    for made in (old, by_hand, issuer):
        keys = (made.pin, spki_sha256(made.anchor.certificate))
        check(fleet(with_pin(A, old.pin, OURS), *(with_pin(B, key, THEIRS) for key in keys)), made.peer(OURS))


def test_a_pin_of_0_1_binds_the_group_that_its_ca_was_made_for() -> None:
    made = invited()
    for groups in ((with_pin(A, made.pin, OURS),), (with_pin(A, made.pin, OURS), with_pin(B, made.pin, THEIRS))):
        check(fleet(*groups), made.peer(OURS))
        with refused("identity-not-allowed"):
            check(fleet(*groups), made.peer(THEIRS))


def test_two_groups_whose_names_run_together_do_not_narrow_each_other() -> None:
    made = Made(tickets.ca_name(Key("a-b", "c"), "0123abcd"))
    groups = with_pin(Key("a-b", "c"), made.pin, OURS), with_pin(Key("a", "b-c"), made.pin, THEIRS)
    check(fleet(*groups), made.peer(OURS))


def test_the_deletion_of_a_group_ends_no_pin_of_a_ca() -> None:
    made = invited()
    known = fleet(with_pin(A, made.pin, OURS))
    known.drop_group(GROUP_API, A)
    known.set_group(group("face", "tenant-a", GROUP_API))
    with refused("identity-not-allowed"):
        check(known, made.peer(THEIRS))
    check(known, made.peer(OURS))


def test_pins_of_groups_that_are_gone_have_a_bound() -> None:
    kept: dict[tuple[str, str], frozenset[SpiffeId]] = {}
    for number in range(5000):
        kept = (
            tickets.remembered(kept, {(str(number), "x"): frozenset([OURS])})
            if number > 4990
            else kept | {(str(number), "x"): frozenset([OURS])}
        )
    assert len(kept) == 4097 and ("4999", "x") in kept and ("0", "x") not in kept


def test_names_of_cas_have_64_characters_at_most() -> None:
    long = Key("n" * 63, "g" * 63)
    made = Made(tickets.ca_name(long, "0123abcd"))
    with pytest.raises(RefusedError):
        check(fleet(with_pin(long, made.pin, OURS)), made.peer(THEIRS))
