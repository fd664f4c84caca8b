"""A healthy machine logs no error and no warning, and its controller neither: not at the start, not later, not at the stop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.healthy import worse_than_info
from tests.mesh import Mesh, mesh
from tests.spire_support import MISSING, PROXY_UID, SPIRE, Machine, Remote, machine

pytestmark = pytest.mark.root
needs_spire = pytest.mark.skipif(not SPIRE, reason=MISSING)


def assert_quiet(vm: Mesh) -> None:
    for name in ("harness", "controller"):
        assert worse_than_info((vm.folder / f"{name}.log").read_text()) == []


def twice(vm: Mesh, count: Callable[[], int], more: int) -> None:
    """A first start, and one with what that has left; each goes on until there are so many more."""
    vm.start_controller()
    vm.wait(lambda: "controller ready" in (vm.folder / "controller.log").read_text())
    for _ in range(2):
        least = count() + more
        vm.start_daemon()
        vm.wait_ready()
        vm.wait(lambda least=least: count() >= least)  # type: ignore[misc]
        assert vm.stop("harness") == 0
        assert_quiet(vm)


def cycles(vm: Mesh) -> int:
    return int(vm.status().get("counters", {}).get("cycles", 0))


def proxy(vm: Mesh) -> dict[str, dict[str, str]]:
    """Not Linkerd's, which would warn, rightly, that there is no control plane here."""
    return {"proxy": {"path": str(vm.folder / "development-proxy")}}


def issued(vm: Machine) -> int:
    log = vm.vm.folder / "harness.log"
    text = log.read_text() if log.exists() else ""
    return text.count("Renewing X509-SVID") + text.count("Creating X509-SVID")


def test_mode_embedded() -> None:
    with mesh() as vm:
        twice(vm, lambda: cycles(vm), 6)


@needs_spire
def test_mode_local() -> None:
    """SPIRE's agent asks its server every few seconds: it must never meet one that is away."""
    with machine() as vm:
        vm.configure(svid_ttl="25s", sections=proxy(vm.vm))
        twice(vm.vm, lambda: issued(vm), 3)


@needs_spire
def test_mode_agent() -> None:
    with machine() as vm:
        remote = Remote(vm)
        remote.start()
        remote.entry()
        # A server shows an agent what was there when it read its entries last: at its start.
        assert vm.vm.stop("remote") == 0
        remote.start()
        vm.configure("agent", identity={"agent": {"server_address": remote.address, **remote.pair}}, sections=proxy(vm.vm))
        twice(vm.vm, lambda: cycles(vm.vm), 6)


@needs_spire
def test_mode_external() -> None:
    with machine() as vm:
        remote = Remote(vm)
        remote.start()
        remote.entry()
        socket = remote.agent()
        remote.start_agent()
        vm.vm.wait(lambda: "spiffe://" in vm.fetch(PROXY_UID, socket))
        vm.configure("external", identity={"socket": f"unix:{socket}"}, sections=proxy(vm.vm))
        twice(vm.vm, lambda: cycles(vm.vm), 6)
