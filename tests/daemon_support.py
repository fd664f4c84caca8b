"""What the daemon's tests share: a machine beside a controller, both of them started, and the rules in force."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mesh import Mesh, mesh


@pytest.fixture(name="vm")
def vm_fixture() -> Iterator[Mesh]:
    with mesh() as found:
        yield found


def started(vm: Mesh) -> Mesh:
    vm.start_controller()
    vm.start_daemon()
    return vm


def ruleset(vm: Mesh) -> str:
    return vm.vm.run("nft", "list", "ruleset")
