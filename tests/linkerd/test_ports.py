"""A machine in a real mesh listens and dials where docs/ports.md says: with SPIRE, linkerd2-proxy, and DNS of its own."""

from __future__ import annotations

import pytest

from tests.linkerd.conftest import SMILEY, Mesh
from tests.linkerd_lab_vm import APP_PORT
from tests.ports_page import FIREWALLS, MACHINE, dialled, listening, rows

pytestmark = pytest.mark.root


def test_it_listens_and_dials_where_the_page_says(mesh: Mesh) -> None:
    assert mesh.client.curl(f"http://{SMILEY}/")[0] == "200"
    page = {(row.loopback, port) for row in rows(MACHINE) for port in row.ports}
    found = listening(mesh.client.box.do("ss", "-Hltun"))
    names_of_its_own = {(True, 53)} - found  # not where the cluster's are known already, as in this lab
    assert found == page - names_of_its_own | {(False, APP_PORT)}
    told = {port for row in rows(FIREWALLS) if row.cells[0] == "machine" for port in row.ports}
    to_others = dialled(mesh.client.box.do("ss", "-Htn"))
    assert {8081, 8086, 8090, 4143} <= to_others <= told
