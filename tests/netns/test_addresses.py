"""The machine's own address changes, goes, or comes late: the registration follows, and the status says how it stands."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.daemon_support import vm_fixture  # noqa: F401
from tests.mesh import NODE, PROXY_UID, VM, Mesh

NEW = "10.9.0.77"
APPLICATION = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, bind='0.0.0.0', port=8000)"


def status_at(vm: Mesh, address: str) -> bool:
    status = vm.status()
    return bool(status["phase"] == "Ready" and status["ready"] and vm.addresses()[-1:] == [address])


def replace_address(vm: Mesh, old: str, new: str) -> None:
    vm.vm.run("ip", "address", "del", f"{old}/24", "dev", "eth0")
    vm.vm.run("ip", "address", "add", f"{new}/24", "dev", "eth0")


def start_application(vm: Mesh) -> None:
    vm.start("application", vm.vm, sys.executable, "-c", APPLICATION)
    vm.wait(lambda: vm.reaches(VM))


def test_a_new_address_in_place_of_the_old_is_registered(vm: Mesh) -> None:
    """As after `dhclient -r; dhclient`."""
    vm.start_controller(lease="30s")
    vm.start_daemon()
    vm.wait_ready()
    start_application(vm)
    pid = vm.proxy_pid()
    replace_address(vm, VM, NEW)
    vm.wait(lambda: status_at(vm, NEW))
    vm.wait(lambda: vm.reaches(NEW))
    assert vm.proxy_pid() == pid, "the proxy serves any address, and goes on"
    assert vm.addresses() == [VM, NEW]


# As the proxy's own to the control plane: it waits for an answer, and nobody can send one any more.
HELD = f"""
import socket, sys
with socket.socket(socket.AF_INET6 if sys.argv[1] == "mapped" else socket.AF_INET) as held:
    held.connect(("::ffff:{NODE}" if sys.argv[1] == "mapped" else "{NODE}", 9000))
    print("begun", flush=True)
    try:
        print(held.recv(1))
    except OSError as error:
        print(error.strerror)
"""
SERVE = f"import socket, time; server = socket.create_server(('{NODE}', 9000)); time.sleep(3600)"


@contextmanager
def held(vm: Mesh, uid: str, form: str = "plain") -> Iterator[subprocess.Popen[str]]:
    """A connection of that user's, on a machine that is ready."""
    vm.start("holder", vm.node, sys.executable, "-c", SERVE)
    vm.wait(lambda: ":9000" in vm.node.run("ss", "-ltnH"))
    vm.start_controller(lease="30s")
    vm.start_daemon()
    vm.wait_ready()
    with vm.vm.start("setpriv", f"--reuid={uid}", "--clear-groups", sys.executable, "-c", HELD, form) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("form", ["plain", "mapped"])
def test_the_proxys_connections_from_an_address_that_is_gone_are_ended(vm: Mesh, form: str) -> None:
    """It would wait for minutes."""
    with held(vm, PROXY_UID, form) as process:
        replace_address(vm, VM, NEW)
        vm.wait(lambda: status_at(vm, NEW))
        assert process.communicate(timeout=30)[0] == "Software caused connection abort\n"


def test_they_are_ended_too_when_the_old_address_goes_later(vm: Mesh) -> None:
    with held(vm, PROXY_UID) as process:
        vm.vm.run("ip", "address", "add", f"{NEW}/24", "dev", "eth0")
        vm.vm.run("ip", "route", "replace", "10.9.0.0/24", "dev", "eth0", "src", NEW)
        vm.wait(lambda: status_at(vm, NEW))
        assert process.poll() is None, "the old address still works"
        vm.vm.run("ip", "address", "del", f"{VM}/24", "dev", "eth0")
        assert process.communicate(timeout=30)[0] == "Software caused connection abort\n"


def test_other_programs_connections_are_their_own(vm: Mesh) -> None:
    with held(vm, "65534") as process:
        replace_address(vm, VM, NEW)
        vm.wait(lambda: status_at(vm, NEW))
        assert process.poll() is None


def test_an_address_that_goes_for_a_moment_ends_nothing(vm: Mesh) -> None:
    with held(vm, PROXY_UID) as process:
        vm.vm.run("ip", "address", "del", f"{VM}/24", "dev", "eth0")
        vm.wait_problem("Address", "no-address")
        vm.vm.run("ip", "address", "add", f"{VM}/24", "dev", "eth0")
        vm.wait(lambda: status_at(vm, VM))
        assert process.poll() is None


def test_while_there_is_no_address_it_is_named(vm: Mesh) -> None:
    vm.start_controller(lease="30s")
    vm.start_daemon()
    vm.wait_ready()
    vm.vm.run("ip", "address", "del", f"{VM}/24", "dev", "eth0")
    vm.wait_problem("Address", "no-address")
    assert NODE in vm.condition("Address")["message"]
    assert vm.meshexp("status").returncode == 1
    assert "no-address" in vm.meshexp("check", "-o", "json").stdout
    vm.vm.run("ip", "address", "add", f"{VM}/24", "dev", "eth0")
    vm.wait(lambda: status_at(vm, VM))
    assert vm.addresses() == [VM], "it is the same one: nobody needs to be told"


@pytest.mark.parametrize("first", ["nothing", "link-local"])
def test_an_address_that_comes_after_the_daemon(vm: Mesh, first: str) -> None:
    vm.start_controller()
    vm.vm.run("ip", "address", "del", f"{VM}/24", "dev", "eth0")
    if first == "link-local":
        vm.vm.run("ip", "address", "add", "169.254.7.7/16", "dev", "eth0")
        vm.vm.run("ip", "route", "add", f"{NODE}/32", "dev", "eth0", "src", "169.254.7.7")
    vm.start_daemon()
    vm.wait_problem("Address", "no-address")
    if first == "link-local":
        assert "169.254.7.7" in vm.condition("Address")["message"]
        vm.vm.run("ip", "route", "del", f"{NODE}/32")
    vm.vm.run("ip", "address", "add", f"{NEW}/24", "dev", "eth0")
    vm.wait(lambda: status_at(vm, NEW))


def test_no_request_fails_while_the_old_address_is_still_there(vm: Mesh) -> None:
    """The way to the cluster takes another source: peers learn the new address while they call the old one."""
    vm.start_controller(lease="30s")
    vm.start_daemon()
    vm.wait_ready()
    start_application(vm)
    outcomes: list[bool] = []
    ends = threading.Event()

    def call() -> None:
        while not ends.is_set():
            outcomes.append(vm.reaches(VM))

    caller = threading.Thread(target=call)
    caller.start()
    try:
        vm.wait(lambda: len(outcomes) > 3)
        vm.vm.run("ip", "address", "add", f"{NEW}/24", "dev", "eth0")
        vm.vm.run("ip", "route", "replace", "10.9.0.0/24", "dev", "eth0", "src", NEW)
        vm.wait(lambda: status_at(vm, NEW))
        after = len(outcomes)
        vm.wait(lambda: len(outcomes) > after + 3)
    finally:
        ends.set()
        caller.join()
    assert False not in outcomes
    assert vm.reaches(NEW)


SILENT = """
import asyncio, ipaddress, sys, threading, time
from harness.config import schema
from harness.daemon import machine
from harness.errors import TemporaryError
from harness.known import Machine
from harness.system import addresses
from harness.values import HostPort
from tests.builders import config as configured, machine as built

NAME = HostPort("controller.example.org", 8081)
async def main():
    began = time.monotonic()
    for _ in range(5):
        try:
            await addresses.resolved(NAME, 0.2)
        except TemporaryError as error:
            print(error.message)
    assert threading.active_count() == 2, threading.enumerate()
    print(time.monotonic() - began < 5)
    config = configured(controller={"address": str(NAME), "trust_anchors": "x"}, network={})
    before = built(addresses=(ipaddress.ip_address(sys.argv[1]),), controller_at=(ipaddress.ip_address(sys.argv[2]),))
    found = await machine.look_at_network(config, before)
    print(*found.addresses, found.unaddressed)
asyncio.run(main())
"""


def test_a_member_waits_for_no_name_server(vm: Mesh) -> None:
    """Silent ones would hold up every cycle for a minute; and they say nothing of this machine's address."""
    silent = (
        "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.9.0.1', 53)); time.sleep(999)"
    )
    vm.start("silent", vm.node, sys.executable, "-c", silent)
    vm.wait(lambda: ":53" in vm.node.run("ss", "-lnuH"))
    (vm.folder / "silent.conf").write_text(f"nameserver {NODE}\n")
    mounted = f'mount --bind {vm.folder}/silent.conf /etc/resolv.conf && exec "$@"'
    words = ("unshare", "--mount", "sh", "-c", mounted, "sh", sys.executable, "-c", SILENT, "192.0.2.1", NODE)
    said = vm.vm.run(*words).splitlines()
    assert said == ["looking up controller.example.org: no answer within 0.2 s"] * 5 + ["True", f"{VM} "]


SOURCES = """
import asyncio, ipaddress, sys
from harness.daemon import machine
from tests.builders import config as configured, machine as built

config = configured(controller={"address": "controller.example.org:8081", "trust_anchors": "x"}, network={})
own, *targets = map(ipaddress.ip_address, sys.argv[1:])
before = built(addresses=(own,), controller_at=tuple(targets))
print(*asyncio.run(machine.look_at_network(config, before)).addresses)
"""


def test_an_address_stays_while_the_kernel_takes_it_for_one_of_the_controllers(vm: Mesh) -> None:
    """A name server tells them in another order each time, and two links lead to them."""
    other, far = "10.1.1.1", "10.1.1.9"
    vm.vm.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "other")
    vm.vm.run("ip", "address", "add", f"{other}/24", "dev", "eth1")
    vm.vm.run("ip", "link", "set", "eth1", "up")

    def found(*words: str) -> str:
        return vm.vm.run(sys.executable, "-s", "-c", SOURCES, *words).strip()

    assert [found(own, *order) for own in (VM, other) for order in ((NODE, far), (far, NODE))] == [VM, VM, other, other]
    assert found("192.0.2.9", far, NODE) == other, "one that is gone does not stay"


def test_of_several_links_the_one_to_the_cluster_counts(vm: Mesh) -> None:
    """Neither the first by its number, nor the first by its name, which has the default route here."""
    vm.vm.run("ip", "address", "add", "10.3.3.3/32", "dev", "lo")
    vm.vm.run("ip", "link", "add", "aaa0", "type", "veth", "peer", "name", "other")
    vm.vm.run("ip", "address", "add", "10.1.1.1/24", "dev", "aaa0")
    vm.vm.run("ip", "link", "set", "other", "up")
    vm.vm.run("ip", "link", "set", "aaa0", "up")
    vm.vm.run("ip", "route", "add", "default", "via", "10.1.1.9", "dev", "aaa0")
    vm.start_controller()
    vm.start_daemon()
    vm.wait_ready()
    vm.vm.run("ip", "address", "add", "10.1.1.2/24", "dev", "aaa0")
    vm.vm.run("ip", "address", "del", "10.1.1.1/24", "dev", "aaa0")
    replace_address(vm, VM, NEW)
    vm.wait(lambda: status_at(vm, NEW))
    assert vm.addresses() == [VM, NEW]
