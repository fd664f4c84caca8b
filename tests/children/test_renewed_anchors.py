"""A root or an intermediate that was renewed with the same key: both are there, and OpenSSL finds one of them.

Which of the two it finds depends on their order, so each order is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.children.controller_site import FACE, REQUEST, Run, Site, run_fixture  # noqa: F401 — the fixture
from tests.controller_support import Authority

DAY = 86400.0
PRESENT = (-DAY, 30 * DAY)
TIMES = {"expired": (-400 * DAY, -DAY), "of the future": (DAY, 800 * DAY)}
WORDS = {"expired": "has expired", "of the future": "is not valid yet"}
ORDERS: dict[str, Callable[[str, str], str]] = {"first": lambda out, valid: out + valid, "last": lambda out, valid: valid + out}


async def trust(s: Site, bundle: str) -> None:
    Path(s.authority.anchors).write_text(bundle)
    await s.controller.reload()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", TIMES)
def test_a_root_that_was_renewed_with_its_key_counts(run: Run, kind: str, order: str) -> None:
    async def body(s: Site) -> None:
        own = Path(s.authority.anchors).read_text()
        other, present = s.authority.renewed(*TIMES[kind]), s.authority.renewed(*PRESENT)
        client = s.authority.client(s.authority.issue("machine", FACE))
        await trust(s, ORDERS[order](other, present))
        assert (await s.call("POST", "/v1/workloads", REQUEST, context=client)).status == 201
        await trust(s, other)
        refused = await s.call("POST", "/v1/workloads", REQUEST, context=client)
        assert refused.code == "unauthenticated"
        expected = f"the trust anchor of the client certificate {WORDS[kind]} by the controller's clock"
        assert refused.body["message"] == expected
        await trust(s, own)

    run(body)


def test_a_connection_goes_on_over_the_renewal_of_its_root(run: Run) -> None:
    """It began under the old certificate, and the renewed one has the same key; only the bundle without either ends it."""

    async def body(s: Site) -> None:
        own = Path(s.authority.anchors).read_text()
        async with await s.client() as client:
            assert (await client.call("GET", "/v1")).status == 204
            await trust(s, s.authority.renewed(*TIMES["expired"]) + s.authority.renewed(*PRESENT))
            assert (await client.call("GET", "/v1")).status == 204
            await trust(s, Path(Authority(s.authority.folder, "other").anchors).read_text())
            refused = await client.call("GET", "/v1")
            assert refused.body["message"] == "the trust anchor of the client certificate was removed"
        await trust(s, own)

    run(body)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", TIMES)
def test_an_intermediate_that_was_renewed_with_its_key_counts(run: Run, kind: str, order: str) -> None:
    async def body(s: Site) -> None:
        between = Authority(s.authority.folder, "between")
        other, present = (between.renewed(*times, s.authority) for times in (TIMES[kind], PRESENT))
        leaf, key = between.issue("machine", FACE)
        certificate = Path(leaf).read_text()
        Path(leaf).write_text(certificate + ORDERS[order](other, present))
        assert (await s.call("POST", "/v1/workloads", REQUEST, context=s.authority.client((leaf, key)))).status == 201
        Path(leaf).write_text(certificate + other)
        refused = await s.call("POST", "/v1/workloads", REQUEST, context=s.authority.client((leaf, key)))
        assert refused.code == "unauthenticated" and f"the client certificate {WORDS[kind]}" in refused.body["message"]

    run(body)


def test_an_expired_intermediate_cannot_renew_itself(run: Run) -> None:
    """Who has its key can make certificates of that name and key: they count only with the issuer's signature."""

    async def body(s: Site) -> None:
        between = Authority(s.authority.folder, "between")
        expired, forged = between.renewed(*TIMES["expired"], s.authority), between.renewed(*PRESENT)
        (s.authority.folder / "forged").mkdir()
        named = Authority(s.authority.folder / "forged", s.authority.name)
        leaf, key = between.issue("machine", FACE)
        certificate = Path(leaf).read_text()
        for own in (forged, between.renewed(*PRESENT, named)):
            Path(leaf).write_text(certificate + expired + own)
            refused = await s.call("POST", "/v1/workloads", REQUEST, context=s.authority.client((leaf, key)))
            assert refused.code == "unauthenticated" and "the client certificate has expired" in refused.body["message"]
        assert (await s.controller.store.workloads.list()).items == ()

    run(body)
