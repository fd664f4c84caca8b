"""A healthy machine of a real mesh logs no error and no warning: neither the harness nor SPIRE nor Linkerd's proxy."""

from __future__ import annotations

import pytest

from tests.healthy import worse_than_info
from tests.linkerd.conftest import Mesh
from tests.waiting import wait

pytestmark = pytest.mark.root


def test_from_the_first_start_to_the_end_of_the_second(mesh: Mesh) -> None:
    mesh.lab.group("quiet")
    vm = mesh.lab.vm("quiet-1", "quiet", local={"svid_ttl": "25s"})
    for _ in range(2):
        vm.join()
        before = issued(vm.box.log("harness"))
        wait(lambda before=before: issued(vm.box.log("harness")) >= before + 2, 90)  # type: ignore[misc]
        assert vm.leave() == 0
        assert worse_than_info(vm.box.log("harness")) == []


def issued(log: str) -> int:
    """By SPIRE's agent, which has asked its server some times by then."""
    return log.count("Renewing X509-SVID")
