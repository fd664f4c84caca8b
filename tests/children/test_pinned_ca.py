"""A machine signs another identity with its own CA, over real TLS, while another tenant's annotations say whatever they like."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import ssl

from cryptography.hazmat.primitives import serialization

from controller import tickets
from controller.model import Key
from controller.peer import spki_sha256
from harness import ca
from harness.values import SpiffeId, parse_spiffe_id
from tests.children.controller_site import FACE, REQUEST, Run, Site, run_fixture  # noqa: F401 — the fixture
from tests.controller_support import TRUST_DOMAIN, make_certificate
from tests.workload_api_support import write_pem

SMILEY = f"spiffe://{TRUST_DOMAIN}/smiley"


class Machine:
    """With a CA of its own, made for FACE."""

    def __init__(self, s: Site, folder: pathlib.Path) -> None:
        self.site, self.folder = s, folder
        anchor = ca.load_anchor(pathlib.Path(s.authority.anchors), folder / "anchor.key.pem")
        self.key = ca.new_key()
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = ca.issue(anchor, "vm", self.key.public_key(), 1, now, FACE)

    def context(self, uri: str) -> ssl.SSLContext:
        key = ca.new_key()
        leaf = make_certificate("leaf", self.certificate.subject, key, self.key, -60, 3600, ca=False, uris=(uri,))
        chain, own = self.folder / "vm.pem", self.folder / "vm.key.pem"
        pem = [one.public_bytes(serialization.Encoding.PEM) for one in (leaf, self.certificate)]
        chain.write_bytes(b"".join(pem))
        write_pem(own, key)
        return self.site.authority.client((str(chain), str(own)))


async def pin(s: Site, name: str, key: str, *identities: SpiffeId) -> None:
    """As somebody who may edit that group."""
    groups = s.controller.store.buoyant_groups
    stored = await groups.get(Key("faces", name))
    ticket = tickets.ticket(f"token-{key}", 0.0, identities, key)
    metadata = dataclasses.replace(stored.metadata, annotations=stored.metadata.annotations | dict([ticket.annotation]))
    await groups.replace(dataclasses.replace(stored, metadata=metadata))


def test_a_machines_ca_is_pinned_by_its_certificate_and_by_no_group(run: Run, tmp_path: pathlib.Path) -> None:
    async def body(s: Site) -> None:
        machine = Machine(s, tmp_path)
        anchor = ca.load_anchor(pathlib.Path(s.authority.anchors), tmp_path / "anchor.key.pem")
        for certificate in (machine.certificate, anchor.certificate):
            await pin(s, "smiley", spki_sha256(certificate), parse_spiffe_id(SMILEY))
        await s.join()
        await s.join(machine.context(FACE), instance_id="two", addresses=["192.0.2.2"])
        request = REQUEST | {"group": "smiley", "instance_id": "three", "addresses": ["192.0.2.3"]}
        answer = await s.call("POST", "/v1/workloads", request, context=machine.context(SMILEY))
        assert answer.code == "identity-not-allowed" and FACE in str(answer.body)
        await s.controller.store.buoyant_groups.delete(Key("faces", "face"))
        answer = await s.call("POST", "/v1/workloads", request, context=machine.context(SMILEY))
        assert answer.code == "identity-not-allowed"

    run(body)
