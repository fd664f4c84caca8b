"""`meshexp check` on a member of a real Linkerd: its destination and policy are who they should be, through our own redirect."""

from __future__ import annotations

import json

import pytest

from tests.checks import checks
from tests.linkerd.conftest import Mesh

pytestmark = pytest.mark.root


def test_all_is_well(mesh: Mesh) -> None:
    code, said = mesh.client.meshexp("check", "-o", "json")
    # The name server of the lab has no SRV records, which a cluster's has.
    assert {check["code"] for check in checks(said) if "code" in check} <= {"dns-no-srv"}
    assert code == 0 and json.loads(said)["success"] is True
    good = [check["description"] for check in checks(said) if check["result"] == "success"]
    assert "destination is linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local" in good
