"""The rpm: built, installed, upgraded and erased. There is no Fedora here: Debian's rpm and systemd run its scriptlets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import __version__
from tests.mesh import ROOT
from tests.package.instance import add_api
from tests.package.machine import UNIT, Machine, machine
from tests.package.root import layered, sh

RPM = ROOT / "dist" / f"meshexp-harness-{__version__}-1.noarch.rpm"


@pytest.fixture(scope="module")
def rpm() -> Path:
    said = sh(str(ROOT / "packaging/rpm/build"), "--lint")
    assert said == f"dist/{RPM.name}\n", "where the package is, and nothing else"
    return RPM


@pytest.fixture
def vm(debian: Path) -> Iterator[Machine]:
    with layered(debian) as root, machine(root) as found:
        yield found


def test_two_builds_are_the_same_to_the_bit(rpm: Path) -> None:
    first = hashlib.sha256(rpm.read_bytes()).hexdigest()
    sh(str(ROOT / "packaging/rpm/build"))
    assert hashlib.sha256(rpm.read_bytes()).hexdigest() == first


def test_it_is_self_contained_and_has_no_compiled_code(rpm: Path) -> None:
    files = sh("rpm", "--query", "--list", "--package", str(rpm)).split()
    assert not [path for path in files if path.endswith((".so", ".pyc"))]
    assert [path for path in files if "/harness/" in path]
    assert not [path for path in files if {"controller", "demo", "bench"} & set(path.split("/"))]
    for library in ("h2", "httpx", "pyroute2", "structlog", "yaml"):
        assert f"/usr/lib/meshexp-harness/{library}" in files


def test_install_join_upgrade_erase(vm: Machine, rpm: Path) -> None:
    """On a Debian without any of the libraries that the deb depends on: what runs is what the rpm carries."""
    vm.boot()
    vm.apt("purge", *(f"python3-{name}" for name in ("h2", "httpx", "pyroute2", "structlog", "systemd", "yaml", "iptables")))
    before = vm.dump()
    package = vm.put(rpm)
    vm.run("rpm", "--install", "--nodeps", package)
    assert vm.run("rpm", "--verify", "--nodeps", "meshexp-harness") == ""
    assert vm.show("UnitFileState") == {"UnitFileState": "enabled"}, "by the preset"
    vm.run("systemctl", "start", UNIT)
    assert "waiting for configuration" in vm.show("StatusText")["StatusText"]
    vm.configure()
    vm.run("systemctl", "reload", UNIT)
    vm.wait_ready()
    vm.serve()
    proxy = vm.pid("meshexp-proxy.service")
    with vm.traffic():
        vm.run("rpm", "--upgrade", "--force", "--nodeps", package)
        vm.wait_ready()
    assert vm.pid("meshexp-proxy.service") == proxy
    assert "group" in vm.file("/etc/meshexp/harness.yaml").read_text(), "what was edited is kept"
    add_api(vm)  # a further workload goes with it
    vm.run("rpm", "--erase", "meshexp-harness")
    assert [line for line in vm.dump().items() if line not in before.items()] == []
    assert vm.file("/etc/meshexp/harness.yaml.rpmsave").exists()
    assert not vm.file("/usr/lib/meshexp-harness").exists()
    left = ("systemctl", "list-unit-files", "--no-legend", "meshexp*")
    vm.wait(lambda: vm.run(*left, check=False).strip() in ("", "0 unit files listed."))  # systemd drops transient ones when idle
