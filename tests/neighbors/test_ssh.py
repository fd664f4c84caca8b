"""SSH on an unusual port, inside the shipped unit: whatever is redirected, an administrator comes in."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.mesh import VM
from tests.package.machine import PODS, Machine, machine
from tests.package.root import layered

PORT, OTHERS = 2222, 8000


@pytest.fixture(scope="module")
def vm(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found:
        found.configure(redirect={"inbound": "all"})
        found.boot()
        found.run("ssh-keygen", "-A")
        found.wait_ready()
        yield found


def banner(vm: Machine, port: int = PORT) -> str:
    """What answers a peer there: SSH's daemon speaks first."""
    script = (
        "import socket, sys; c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5, (sys.argv[3], 0));"
        "c.settimeout(5); print(c.recv(64).decode().strip())"
    )
    command = [*vm.mesh.node.enter, "/usr/bin/python3", "-c", script, VM, str(port), PODS]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@contextlib.contextmanager
def by_service(vm: Machine) -> Iterator[None]:
    """As Debian's /etc/default/ssh has it: no file in /etc/ssh names the port."""
    vm.file("/etc/default/ssh").write_text(f"SSHD_OPTS='-p {PORT}'\n")
    vm.run("systemctl", "start", "ssh.service")
    try:
        yield
    finally:
        vm.run("systemctl", "stop", "ssh.service")
        vm.file("/etc/default/ssh").write_text("")


@contextlib.contextmanager
def by_socket(vm: Machine) -> Iterator[None]:
    """systemd listens; there is no process of SSH's before the first connection."""
    drop_in = vm.file("/run/systemd/system/ssh.socket.d/port.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(f"[Socket]\nListenStream=\nListenStream={PORT}\n")
    vm.run("systemctl", "daemon-reload")
    vm.run("systemctl", "start", "ssh.socket")
    try:
        yield
    finally:
        vm.run("systemctl", "stop", "ssh.socket", "ssh.service")
        drop_in.unlink()
        vm.run("systemctl", "daemon-reload")


@contextlib.contextmanager
def by_unit_of_another_name(vm: Machine) -> Iterator[None]:
    vm.file("/opt/sshd_config").write_text(f"Port {PORT}\n")
    vm.run("mkdir", "-p", "/run/sshd")
    vm.run("systemd-run", "--unit=rescue-login", "--collect", "/usr/sbin/sshd", "-D", "-f", "/opt/sshd_config")
    try:
        yield
    finally:
        vm.run("systemctl", "stop", "rescue-login")


@contextlib.contextmanager
def by_hand(vm: Machine) -> Iterator[None]:
    """From a login session, whose cgroup other programs share. Its file tells the port."""
    vm.run("mkdir", "-p", "/run/sshd")
    vm.file("/opt/sshd_config").write_text(f"Port {PORT}\n")
    vm.run("systemd-run", "--scope", "--unit=session-7", "/usr/sbin/sshd", "-f", "/opt/sshd_config")
    try:
        yield
    finally:
        vm.run("systemctl", "stop", "session-7.scope")


@contextlib.contextmanager
def by_a_supervisor(vm: Machine) -> Iterator[None]:
    """One unit for SSH and for an application, whose port is the group's: nobody can say whose a socket is."""
    both = f"/usr/sbin/sshd -p {PORT}; exec /usr/bin/python3 -m http.server --directory=/opt {OTHERS}"
    vm.run("mkdir", "-p", "/run/sshd")
    vm.run("systemd-run", "--unit=supervisor", "--collect", "sh", "-c", both)
    try:
        yield
    finally:
        vm.run("systemctl", "stop", "supervisor")


STARTED = [by_service, by_socket, by_unit_of_another_name, by_hand, by_a_supervisor]
UNSURE = {by_a_supervisor: OTHERS}


@pytest.mark.parametrize("started", STARTED, ids=lambda one: one.__name__)
def test_an_administrator_comes_in(vm: Machine, started: Callable[[Machine], AbstractContextManager[None]]) -> None:
    before = vm.pid()
    vm.wake()  # what was there before has ended
    vm.wait(lambda: not {f"{PORT}", f"{OTHERS}"} & set(re.findall(r"\d+", vm.run("meshexp", "redirect", "show"))))
    with started(vm):
        vm.wait(lambda: banner(vm).startswith("SSH-2.0"))
        vm.wait(lambda: vm.condition("Redirected")["problem"] == ("port-taken-for-ssh" if started in UNSURE else None))
        assert vm.pid() == before and vm.status()["phase"] == "Ready"
        left_alone = re.findall(r"\d+", vm.run("meshexp", "redirect", "show"))
        assert f"{PORT}" in left_alone
        if started in UNSURE:
            assert f"not redirected: port {UNSURE[started]}, where" in vm.condition("Redirected")["message"]
            assert f"{UNSURE[started]}" in left_alone


def test_other_ports_are_redirected_all_the_same(vm: Machine) -> None:
    """A listener of root's that is not SSH's is not left out, also when there has been a look at it."""
    vm.run("systemd-run", "--unit=other", "--collect", "/usr/bin/python3", "-m", "http.server", "--directory=/opt", "8022")
    try:
        vm.wait(lambda: ":8022" in vm.run("ss", "-ltnH"))
        cycles = vm.status()["counters"]["cycles"]
        vm.wake()
        vm.wait(lambda: vm.status()["counters"]["cycles"] > cycles + 1)
        redirected = vm.run("meshexp", "redirect", "show")
        assert "8022" not in redirected and "4143" in redirected
    finally:
        vm.run("systemctl", "stop", "other")
