"""Set-up on a machine that runs systemd: nothing of what it installs is started or enabled, nothing that was there is touched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mesh import ROOT
from tests.package import root, services
from tests.package.machine import CHECKOUT, Machine, machine
from tests.package.services import ARCHIVE, PACKAGES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a Debian is booted: needs root")
POLICY, STATE = "/usr/sbin/policy-rc.d", "/var/lib/meshexp-setup"
INSTALL = f'. {CHECKOUT}/setup; install_packages "$@"'


@dataclass(frozen=True, slots=True)
class Services:
    """What runs, what will after the next boot, and who listens."""

    active: frozenset[str]
    enabled: frozenset[str]
    ports: frozenset[str]


def look(vm: Machine) -> Services:
    units = "--type=service,socket,timer,path", "--no-legend", "--plain", "--full"
    active = vm.run("systemctl", "list-units", "--state=active,activating", *units)
    enabled = vm.run("systemctl", "list-unit-files", "--state=enabled,enabled-runtime", "--no-legend", "--plain", "--full")
    # The old kind of service, which systemd starts from its links.
    links = vm.run("sh", "-c", "ls -1 /etc/rc[2345S].d | grep ^S | sort -u", check=False)
    ports = vm.run("ss", "-Hltun")
    return Services(
        frozenset(line.split()[0] for line in active.splitlines() if line),
        frozenset([*(line.split()[0] for line in enabled.splitlines() if line), *links.split()]),
        frozenset(line.split()[4] for line in ports.splitlines()),
    )


@pytest.fixture
def vm(debian: Path) -> Iterator[Machine]:
    """A Debian that runs and has the packages at hand, with no network."""
    with root.layered(debian, megabytes=2048) as tree:
        (tree / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:{ARCHIVE} ./\n")
        with machine(tree, f"--bind-ro={services.archive()}:{ARCHIVE}") as found:
            found.boot()
            yield found


def install(vm: Machine, *packages: str) -> str:
    said = vm.run("bash", "-c", INSTALL, "bash", *packages, timeout=600)
    assert all(is_installed(vm, package) for package in packages)
    assert_nothing_is_left(vm)
    return said


def is_installed(vm: Machine, package: str) -> bool:
    return vm.run("dpkg-query", "-W", "-f", "${db:Status-Status}", package, check=False) == "installed"


def assert_nothing_is_left(vm: Machine) -> None:
    assert not vm.file(STATE).exists()
    assert not vm.file(f"{POLICY}.before-meshexp").exists()


def test_what_is_new_is_neither_started_nor_enabled(vm: Machine) -> None:
    before = look(vm)
    said = install(vm, *PACKAGES)
    assert not vm.file(POLICY).exists()
    assert look(vm) == before
    assert "docker.service" in said and "docker-registry.service" in said, "it says what it has left disabled"
    assert install(vm, *PACKAGES) == "", "a second run finds everything there"
    vm.reboot()
    after = look(vm)
    assert (after.enabled, after.ports) == (before.enabled, before.ports)
    new = {name.partition(".")[0] for name in after.active - before.active}
    assert not new & {"etcd", "docker", "containerd", "docker-registry", "firewalld", "ufw", "prometheus"}, new
    # The person who wants one starts it as usual.
    vm.run("systemctl", "enable", "--now", "docker-registry")
    vm.wait(lambda: "*:5000" in look(vm).ports)


ASKED = "/var/log/asked"
THEIRS = f'#!/bin/sh\necho "$@" >>{ASKED}\n'


def test_what_was_there_stays_as_it_is(vm: Machine) -> None:
    vm.apt("update")
    vm.apt("install", "docker-registry")
    vm.wait(lambda: "*:5000" in look(vm).ports)
    policy = vm.file(POLICY)
    policy.write_text(THEIRS)
    policy.chmod(0o755)
    before, pid = look(vm), vm.pid("docker-registry")
    install(vm, "etcd-server", "docker-registry", "systemd-container")
    assert look(vm) == before
    assert vm.pid("docker-registry") == pid
    assert policy.read_text() == THEIRS
    assert "etcd" in vm.file(ASKED).read_text(), "the machine's own policy was asked, too"


HELD = f"""
. {CHECKOUT}/setup
close_to_others $lock; exec 9<$lock; flock 9
hold_services
invoke-rc.d docker-registry restart && deb-systemd-invoke restart docker-registry.service
apt-get install -q=2 -y etcd-server >/dev/null
release_services
"""


def test_a_service_that_was_there_is_restarted_as_its_package_asks(vm: Machine) -> None:
    """When it is upgraded."""
    vm.apt("update")
    vm.apt("install", "docker-registry")
    pid = vm.pid("docker-registry")
    vm.run("bash", "-c", HELD)
    assert vm.pid("docker-registry") not in (0, pid)
    assert vm.show("ActiveState", unit="etcd")["ActiveState"] == "inactive"


SOME = ("etcd-server", "docker-registry", "containerd")


def test_the_next_run_completes_one_that_was_killed(vm: Machine) -> None:
    before = look(vm)
    running = subprocess.Popen([*vm.enter, "bash", "-c", INSTALL, "bash", *SOME], stdout=subprocess.DEVNULL)
    try:
        vm.wait(lambda: vm.file("/etc/init.d/docker-registry").exists(), 300)  # it is unpacked
        theirs = (str(pid) for pid, (name, _) in vm.processes().items() if name in ("bash", "apt-get", "dpkg"))
        vm.run("sh", "-c", 'kill -KILL "$@"', "sh", *theirs)
    finally:
        running.kill()
        running.wait()
    assert vm.file(STATE).is_dir() and not is_installed(vm, "docker-registry")
    assert look(vm).active == before.active
    assert vm.run(POLICY, "cron", "start") == "", "by itself it forbids nothing any more"
    install(vm, *SOME)
    assert not vm.file(POLICY).is_symlink()
    assert look(vm) == before


HELD_BY_ANOTHER = f"""
. {CHECKOUT}/setup
close_to_others $lock  # as an earlier run has left it
for file in $lock /var/lib/dpkg {CHECKOUT}/setup; do
  setpriv --reuid=65534 --regid=65534 --clear-groups -- flock $file sleep 600 >/dev/null 2>&1 &
done
sleep 1
timeout 200 bash -c '{INSTALL}' bash etcd-server
"""


def test_another_user_cannot_hold_it_up(vm: Machine) -> None:
    vm.run("bash", "-c", HELD_BY_ANOTHER, timeout=300)
    assert is_installed(vm, "etcd-server")


UNIT = re.compile(r"/systemd/system/[^/]+\.(service|socket|timer|path)$|^/etc/init\.d/", re.MULTILINE)
QUIET = {"util-linux", "nftables", "iptables"}  # in each Debian, or with nothing that starts by itself


def test_no_package_of_setup_has_a_service_that_is_not_tried_here() -> None:
    lists = 'set +u; . ./setup; printf "%s\\n" "${demo[@]}" "${test[@]}" "${package[@]}" "${neighbours[@]}"'
    names = set(subprocess.run(["bash", "-c", lists], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())
    assert len(names) > 40
    assert shutil.which("dpkg-query")
    for name in names - QUIET - set(PACKAGES):
        done = subprocess.run(["dpkg-query", "-L", name], capture_output=True, text=True, check=False)
        assert not UNIT.search(done.stdout), f"{name} has a service: add it to tests/package/services.py"
