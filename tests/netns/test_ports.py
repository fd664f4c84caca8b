"""The sockets of a member, and those that it has to others, are the ones that docs/ports.md names."""

from __future__ import annotations

import signal

import pytest

from tests.mesh import Mesh, mesh
from tests.ports_page import FIREWALLS, MACHINE, dialled, listening, rows
from tests.spire_support import MISSING, SPIRE, machine

pytestmark = pytest.mark.root
ALWAYS = {"proxy.inbound_port", "proxy.outbound_port", "proxy.admin_port", "metrics.listen"}


def on_the_page(keys: set[str]) -> set[tuple[bool, int]]:
    return {(row.loopback, port) for row in rows(MACHINE) if row.keys & keys for port in row.ports}


def look(member: Mesh, keys: set[str]) -> None:
    assert listening(member.vm.run("ss", "-Hltun")) == on_the_page(keys)
    to_others = dialled(member.vm.run("ss", "-Htn"))
    assert to_others <= {port for row in rows(FIREWALLS) if row.cells[0] == "machine" for port in row.ports}
    assert 8081 in to_others, "the controller"


def test_a_member_listens_where_the_page_says() -> None:
    with mesh() as member:
        member.start_controller()
        member.start_daemon()
        member.wait_ready()
        look(member, ALWAYS)
        assert member.stop("harness", signal.SIGTERM) == 0
        assert listening(member.vm.run("ss", "-Hltun")) == set()


@pytest.mark.skipif(not SPIRE, reason=MISSING)
def test_so_does_one_with_a_spire_of_its_own() -> None:
    with machine() as member:
        member.start()
        member.ready()
        look(member.vm, ALWAYS | {"identity.local.port"})
