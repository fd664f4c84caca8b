"""A machine and its copy, with the same files: who keeps the name, and what both of them say."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.copy_support import COPY, Copy, bridged
from tests.daemon_support import vm_fixture  # noqa: F401
from tests.mesh import VM, Mesh
from tests.namespaces import Namespace


@pytest.fixture
def place(vm: Mesh) -> Iterator[Namespace]:
    with bridged(vm) as found:
        yield found


@pytest.mark.parametrize("boots", [True, False], ids=["a clone that boots", "one that shares the boot id"])
def test_the_first_keeps_its_name_and_both_say_so(vm: Mesh, place: Namespace, boots: bool) -> None:
    vm.start_controller(lease="9s")
    vm.start_daemon()
    vm.wait_ready()
    name = vm.status()["workload"]["name"]
    copy = Copy(vm, place, boots)
    copy.start()
    vm.wait(lambda: copy.problem() == "machine-is-copy")
    vm.wait(lambda: vm.condition("Registration")["problem"] == "machine-copied")
    assert COPY in vm.condition("Registration")["message"]
    vm.wait_ready()
    assert vm.status()["workload"]["name"] == name
    vm.wait(lambda: bool(copy.status().get("ready")))
    own = copy.status()["workload"]["name"]
    assert own != name
    assert vm.meshexp("status").returncode == 0, "it is a warning: the machine is well"
    for one in (vm.meshexp("status"), copy.meshexp("status")):
        assert "copy" in one.stdout
    assert vm.addresses(name)[-1] == VM
    vm.stop("copy")
    copy.start()
    vm.wait(lambda: bool(copy.status().get("ready")))
    assert copy.status()["workload"]["name"] == own, "it keeps the name of its own"
    assert copy.problem() == "machine-is-copy"
    vm.stop("copy", signal.SIGKILL)  # as when it is switched off
    vm.wait(lambda: readiness(vm, own) is False)
    vm.wait_ready()
    assert readiness(vm, name) is True, "the first one's renewals do not count for the copy, nor the other way"
    if boots:  # its boot id tells at the first call that it is another machine
        assert COPY not in vm.addresses(name)


def readiness(vm: Mesh, name: str) -> bool | None:
    """What the controller has last written of it."""
    found = [line["ready"] for line in vm.events("readiness changed") if line["workload"].endswith(name)]
    return found[-1] if found else None
