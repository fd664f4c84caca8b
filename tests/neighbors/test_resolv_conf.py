"""Other programs that use /etc/resolv.conf and port 53, on a booted machine, inside the unit's sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh import NODE
from tests.netns.test_dns import serve
from tests.package.machine import UNIT, Machine, machine
from tests.package.root import layered

NAME = "kubernetes.default.svc.cluster.local"
FILE = "/etc/resolv.conf"


@pytest.fixture
def vm(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found:
        (root / "etc/unbound/unbound.conf.d/root-auto-trust-anchor-file.conf").unlink()  # of a package that is not there
        serve(found.mesh, "cluster-dns", 1053, "--address=/cluster.local/10.42.0.9")
        found.configure(dns={"servers": [f"{NODE}:1053"]})
        yield found


def start(vm: Machine) -> None:
    vm.run("systemctl", "restart", UNIT)


def test_unbound_on_loopback(vm: Machine) -> None:
    """The machine's own resolver: it is asked for everything else, as before."""
    (vm.root / "etc/unbound/unbound.conf.d/own.conf").write_text("server:\n    local-data: 'own.test. A 192.0.2.7'\n")
    (vm.root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    vm.boot()
    vm.run("systemctl", "start", "unbound")
    start(vm)
    vm.wait_ready()
    assert vm.run("getent", "hosts", NAME).split()[0] == "10.42.0.9"
    assert vm.run("getent", "hosts", "own.test").split()[0] == "192.0.2.7"
    vm.run("systemctl", "stop", UNIT)
    assert vm.file(FILE).read_text() == "nameserver 127.0.0.1\n"
    assert vm.run("getent", "hosts", "own.test").split()[0] == "192.0.2.7"


def test_unbound_on_every_address(vm: Machine) -> None:
    """It has our dnsmasq's address, too: that is named, and the machine's names are as they were."""
    own = "server:\n    interface: 0.0.0.0\n    local-data: 'own.test. A 192.0.2.7'\n"
    (vm.root / "etc/unbound/unbound.conf.d/own.conf").write_text(own)
    (vm.root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    vm.boot()
    vm.run("systemctl", "start", "unbound")
    start(vm)
    vm.wait(lambda: "another server listens there already, on 0.0.0.0, port 53" in vm.condition("Names").get("message", ""))
    assert vm.run("getent", "hosts", "own.test").split()[0] == "192.0.2.7"


@pytest.mark.parametrize("how", ["immutable", "dangling"])
def test_a_file_that_cannot_be_written_is_named(vm: Machine, how: str) -> None:
    vm.boot()
    if how == "immutable":
        vm.run("chattr", "+i", FILE)
        said = "cannot be written: Operation not permitted"
    else:
        vm.run("ln", "-sf", "/run/nobody-made-this", FILE)
        said = "is a link that leads to nothing: /run/nobody-made-this"
    try:
        start(vm)
        vm.wait(lambda: said in vm.condition("Names").get("message", ""))
        hint = vm.condition("Names")["hint"]
        assert "apt-get" not in hint and FILE in hint
        assert vm.status()["phase"] == "Degraded"
    finally:
        if how == "immutable":
            vm.run("chattr", "-i", FILE)
