"""Which trust anchors a handshake is verified against, while time passes; with OpenSSL's own handshake in memory."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from pathlib import Path

import pytest

from controller.admission import RefusedError
from controller.anchors import Anchors
from controller.config import ControllerConfig
from controller.credentials import Credentials
from controller.peer import peer_of
from harness.errors import ConfigError
from harness.messages import ClusterFacts
from tests.controller_support import TRUST_DOMAIN, Authority, StandingClock

HOUR, DAY = 3600.0, 86400.0
FACE = f"spiffe://{TRUST_DOMAIN}/face"


class MovedClock(StandingClock):
    """`ahead` of the present, for certificates are made in the present."""

    ahead = 0.0

    def wall(self) -> float:
        return time.time() + self.ahead


def issuers(server: ssl.SSLContext, client: ssl.SSLContext) -> frozenset[str]:
    """The keys above the client's leaf, after a handshake."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    asking, answering = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (asking, answering):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    inner = answering._sslobj  # type: ignore[attr-defined]
    leaf, *above = [one.public_bytes(2) for one in inner.get_verified_chain()]
    return peer_of(leaf, above).issuers


def test_an_anchor_that_ends_gives_way_to_the_next_without_a_reload(tmp_path: Path) -> None:
    async def main() -> None:
        authority, clock = Authority(tmp_path), MovedClock()
        pair, machine = (authority.issue(*names, ends=9 * DAY) for names in (("server",), ("machine", FACE)))
        bundle = authority.renewed(-DAY, HOUR) + authority.renewed(DAY, 9 * DAY)
        Path(authority.anchors).write_text(bundle)
        config = ControllerConfig(*pair, authority.anchors, TRUST_DOMAIN)
        credentials = Credentials(config, clock, lambda: ClusterFacts(trust_anchors_pem=bundle))
        server = await credentials.context()
        begun = issuers(server, authority.client(machine))
        for ahead, counts in ((0.0, True), (HOUR, False), (2 * DAY, True), (9 * DAY, False)):
            clock.ahead = ahead
            for keys in (begun, issuers(server, authority.client(machine))):
                assert credentials.anchors.count(keys, clock.wall()) is counts, ahead

    asyncio.run(main())


def test_only_an_anchor_that_fits_in_its_place_takes_one_away(tmp_path: Path) -> None:
    """Of another name it replaces nothing: what leads to the expired one is told that it has expired."""
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    expired, other = first.renewed(-2 * DAY, -DAY), second.renewed(-DAY, DAY)
    wall = time.time()
    anchors = Anchors(expired + other)
    assert len(anchors.to_verify(wall)) == sum(len(ssl.PEM_cert_to_DER_cert(one)) for one in (expired, other))
    present = first.renewed(-DAY, DAY)
    assert Anchors(expired + present).to_verify(wall) == ssl.PEM_cert_to_DER_cert(present)
    with pytest.raises(RefusedError, match="was removed"):
        anchors.check(frozenset({"another"}), wall)


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_a_bundle_without_certificates_is_a_fault(text: str) -> None:
    with pytest.raises(ConfigError, match="not usable PEM certificates"):
        Anchors(text)
