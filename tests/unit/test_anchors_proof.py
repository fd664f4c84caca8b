"""Which told trust anchors a machine takes: those that the cluster's own servers prove, in real handshakes on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import anchors, problems
from harness.system import own_chain, spire_certificate
from harness.values import canonical_pem
from tests.anchors_support import SERVERS, Site, served, svid_of
from tests.controller_support import Authority


def run(folder: Path, body: Callable[[Site], Any]) -> None:
    async def main() -> None:
        async with served(folder) as site:
            await body(site)

    asyncio.run(main())


def test_a_rotation_needs_no_hand(tmp_path: Path) -> None:
    """Old, both, issuers of the new one, the new one alone; over a restart of the daemon after each."""

    async def body(site: Site) -> None:
        await site.takes("old")
        assert site.connections == 0 and site.problem is None, "what is in force needs no proof"
        await site.takes("old", "new")
        site.restart()
        assert site.in_force == site.pem("old", "new")
        site.serve_under("new")
        await site.takes("new")
        site.restart()
        await site.takes("new")
        assert site.problem is problems.ANCHORS_BEHIND, "the file still has the old one"
        assert site.pem("old", "new") == anchors.with_file(site.found.anchors_pem, site.found.adopted)

    run(tmp_path, body)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_wrong_edit_that_is_taken_back_leaves_nothing(tmp_path: Path, restarted: bool) -> None:
    async def body(site: Site) -> None:
        await site.takes("old")
        message = await site.refuses("wrong")
        assert "none of them is among those in force" in message and site.connections == 0
        assert site.condition is not None and "meshexp anchors accept" in site.condition.hint()
        if restarted:
            site.restart()
            await site.refuses("wrong")
        await site.takes("old")
        assert site.problem is None

    run(tmp_path, body)


def test_all_three_servers_must_prove_them(tmp_path: Path) -> None:
    """The old anchor is taken away while one of them still has its certificate."""

    async def body(site: Site) -> None:
        await site.takes("old", "new")
        for late in SERVERS:
            site.serve_under("new")
            site.serve_under("old", late)
            message = await site.refuses("new")
            assert message.count(" at 127.0.0.1:") == 1 and f"{late} at" in message, message
            await site.takes("old", "new")
        site.serve_under("new")
        await site.takes("new")

    run(tmp_path, body)


def test_a_controller_cannot_prove_its_own_anchors(tmp_path: Path) -> None:
    """It answers for all three, at addresses and by a name that it tells; those under the right names it cannot make."""

    async def body(site: Site) -> None:
        await site.takes("old")
        site.serve_under("evil", "destination", "policy")
        await site.refuses("evil")
        await site.takes("old")
        site.serve_under("old", "destination", "policy", linkerd="told")
        message = await site.refuses("old", "new")
        assert "what answers is not linkerd-destination.linkerd" in message

    run(tmp_path, body)


def test_what_cannot_be_tried_stays_a_candidate_until_the_file_has_it(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        await site.takes("old")
        ports, site.ports = site.ports, {**site.ports, "policy": 1}
        message = await site.refuses("old", "new")
        assert "policy at 127.0.0.1:1: connection refused" in message
        site.file.write_text(site.pem("new", "old"))
        await site.takes("old", "new")
        assert site.problem is None
        site.ports = ports
        await site.refuses("new")
        site.file.write_text(site.pem("new"))
        await site.refuses("new")  # the servers speak against it

    run(tmp_path, body)


def test_an_edit_of_the_file_alone_takes_nothing_from_a_member(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        await site.takes("old")
        for text in (site.pem("wrong"), "no certificate"):
            site.file.write_text(text)
            await site.look()
            assert site.in_force == site.pem("old")
        site.restart()
        assert site.in_force == site.pem("old")

    run(tmp_path, body)


def test_pinned_takes_the_file_alone(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        await site.takes("old", "new")
        site.mode = "pinned"
        await site.look()
        assert site.in_force == site.pem("old") and not site.paths.anchors.exists()
        assert site.problem is problems.ANCHORS_PINNED
        before = site.connections
        site.file.write_text(site.pem("new", "old"))
        await site.look()
        assert (site.in_force, site.condition, site.connections) == (site.pem("old", "new"), None, before)

    run(tmp_path, body)


def test_a_member_that_an_older_release_had_rotated_is_not_locked_out(tmp_path: Path) -> None:
    """Its file has the old anchor; the new one was in force because the controller had told it."""

    async def body(site: Site) -> None:
        site.serve_under("new")
        site.paths.known_registration.parent.mkdir()
        told = {"facts": {"trust_anchors_pem": site.pem("new")}}
        site.paths.known_registration.write_text(json.dumps(told))
        site.restart()
        await site.takes("new")
        assert site.connections == 0

    run(tmp_path, body)


def test_a_root_that_is_renewed_with_its_key_proves_itself(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        await site.takes("old")
        site.told = canonical_pem(site.authority("old").renewed(-60.0, 9 * 86400.0))
        await site.until(lambda: site.in_force == site.told)

    run(tmp_path, body)


def test_a_state_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        (tmp_path / "state").write_text("")
        site.told = site.pem("old", "new")
        await site.until(lambda: site.in_force == site.told)
        assert site.condition is not None and "keeping the trust anchors" in site.condition.message
        (tmp_path / "state").unlink()
        await site.look()
        assert site.problem is problems.ANCHORS_BEHIND and site.paths.anchors.exists()

    run(tmp_path, body)


def test_an_anchor_need_not_sign_itself(tmp_path: Path) -> None:
    """For the proxy of a pod it does not either. And this machine's own certificate is looked at in the same way."""
    root = Authority(tmp_path, "root")
    between = Authority(tmp_path, "between")
    pem = between.renewed(-60.0, 3600.0, root)
    svid = svid_of(between.issue("face", "spiffe://root.linkerd.cluster.local/face"))
    assert own_chain.refusal(svid, pem) == ""
    assert "unable to get" in own_chain.refusal(svid, Path(root.anchors).read_text())
    certificate, key = (Path(name) for name in between.issue("signing", ca=True))
    anchor = tmp_path / "anchor.pem"
    anchor.write_text(pem)
    public = spire_certificate.read_pem(certificate.read_bytes())[0].public_key
    asyncio.run(spire_certificate.verify(certificate, anchor, key, public))


def test_anchors_that_this_machines_own_certificate_does_not_lead_to_are_not_taken(tmp_path: Path) -> None:
    """Its proxy, started again under them, would get no certificate."""

    async def body(site: Site) -> None:
        await site.takes("old", "new")
        site.serve_under("new")
        site.told = site.pem("new")
        own = svid_of(site.authority("old").issue("face", "spiffe://root.linkerd.cluster.local/face"))
        member = replace(site.progress, svid=own)
        async with asyncio.timeout(20):
            while not (found := site.looks.condition(site.config, site.found, member)) or not found.problem:
                site.found = await site.looks.look_again(site.config, site.found, member)
                await site.wakes.within(0.5)
        assert "this machine's own certificate" in found.message

    run(tmp_path, body)


def test_a_machine_that_was_off_during_a_rotation_comes_back_by_a_new_file(tmp_path: Path) -> None:
    async def body(site: Site) -> None:
        await site.takes("old")
        site.serve_under("new")
        await site.refuses("new")
        site.file.write_text(site.pem("new"))
        site.restart()
        site.found = replace(site.found, anchors_pem=site.pem("new"))
        assert site.pem("old", "new") == anchors.for_spire(site.found.anchors_pem, site.found.adopted)
        await site.takes("new")
        assert site.problem is None

    run(tmp_path, body)
