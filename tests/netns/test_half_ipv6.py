"""Machines on which some links have IPv6 and others have not: the proxy listens where it can, at its next start too."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.daemon_support import vm_fixture  # noqa: F401
from tests.mesh import Mesh
from tests.namespaces import namespace


def off(vm: Mesh, link: str) -> None:
    vm.vm.run("sysctl", "-qw", f"net.ipv6.conf.{link}.disable_ipv6=1")


LOOK = """
import socket
from harness.system import addresses
server = socket.create_server(("127.0.0.1", 9))
taken = []
for _ in range(4):
    taken.append(socket.create_connection(("127.0.0.1", 9)))
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError as error:
    print(error.strerror)
print(addresses.has_ipv6(False))
"""


def test_ports_that_are_all_in_use_say_nothing_of_ipv6() -> None:
    """A machine with many connections to one peer would have its proxy restarted."""
    with namespace() as machine:
        machine.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40003")
        assert machine.run(sys.executable, "-c", LOOK).split("\n")[:2] == ["Cannot assign requested address", "True"]


@pytest.mark.parametrize("link", ["lo", "all"])
def test_from_the_start(vm: Mesh, link: str) -> None:
    off(vm, link)
    vm.start_controller()
    vm.start_daemon()
    vm.wait_ready()


@pytest.mark.parametrize("link", ["lo", "all"])
def test_set_while_the_proxy_runs_it_starts_again(vm: Mesh, link: str) -> None:
    vm.start_controller()
    vm.start_daemon()
    vm.wait_ready()
    off(vm, link)
    before = vm.proxy_pid()
    os.kill(before, signal.SIGKILL)
    vm.wait(lambda: vm.proxy_pid() not in (0, before))
    vm.wait_ready()
