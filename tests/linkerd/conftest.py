"""One real mesh for all tests of this folder: two machines of the group smiley, and one of the group face that calls them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.linkerd_lab import MISSING, WHY, Lab, lab
from tests.linkerd_lab_vm import NAMESPACE, Vm

SMILEY = f"smiley.{NAMESPACE}.svc.cluster.local"


@dataclass(frozen=True, slots=True)
class Mesh:
    lab: Lab
    one: Vm
    other: Vm
    client: Vm

    @property
    def both(self) -> dict[str, bool]:
        """The endpoints of smiley when all is well."""
        return {self.one.address: True, self.other.address: True}

    def settle(self) -> None:
        """As every test finds it."""
        for vm in (self.one, self.other, self.client):
            vm.await_ready(60)
        self.lab.await_endpoints("smiley", self.both)


# Ends with this folder's tests: a mesh that nobody uses takes cores from the others.
@pytest.fixture(scope="package")
def whole() -> Iterator[Mesh]:
    if MISSING:
        pytest.skip(WHY)
    with lab() as made:
        made.group("smiley")
        made.group("face")
        found = Mesh(made, made.vm("smiley-1", "smiley"), made.vm("smiley-2", "smiley"), made.vm("face-1", "face"))
        for vm in (found.one, found.other, found.client):
            vm.join()
        yield found


@pytest.fixture
def mesh(whole: Mesh) -> Mesh:
    whole.settle()
    return whole
