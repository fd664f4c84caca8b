"""Split DNS on a booted machine, from within the sandboxed unit: by dnsmasq, and by systemd-resolved, the real one."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mesh import NODE
from tests.netns.test_dns import BEFORE, ask, serve, start_cluster_dns
from tests.package.machine import CHECKOUT, UNIT, Machine, machine
from tests.package.member import drop_in
from tests.package.root import layered

DNSMASQ = "meshexp-dns.service"


@pytest.fixture
def vm(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found:
        serve(found.mesh, "foreign", 53, "--address=/example.org/192.0.2.7")
        start_cluster_dns(found.mesh)
        found.file("/etc/resolv.conf").write_text(BEFORE)
        yield found


def configure(vm: Machine) -> None:
    vm.configure(dns={"servers": [f"{NODE}:1053"]})


def look_up(vm: Machine, number: int = 50, threads: int = 4) -> dict[str, Any]:
    """How many of foreign and cluster names failed."""
    found = json.loads(vm.run("/usr/bin/python3", f"{CHECKOUT}/tests/netns/lookups.py", str(number), str(threads)))
    return {kind: found[f"{kind}_failed"] for kind in ("foreign", "cluster")}


def test_dnsmasq_outlives_a_restart_and_goes_with_the_package(vm: Machine) -> None:
    configure(vm)
    vm.boot()
    vm.wait_ready()
    assert "by resolv.conf" in vm.condition("Names")["message"]
    assert look_up(vm) == {"foreign": 0, "cluster": 0}
    assert vm.show("MemoryMax", "TasksMax", unit=DNSMASQ) == {"MemoryMax": str(1 << 30), "TasksMax": "512"}
    before = vm.pid(DNSMASQ)
    vm.run("systemctl", "restart", UNIT)
    vm.wait_ready()
    assert vm.pid(DNSMASQ) == before, "no question was lost"
    # As dhclient and NetworkManager do: another file in its place, which the unit's own mounts do not know.
    vm.file("/etc/resolv.conf.new").write_text(BEFORE)
    vm.run("mv", "/etc/resolv.conf.new", "/etc/resolv.conf")
    vm.wake()
    vm.wait(lambda: "127.0.0.77" in vm.file("/etc/resolv.conf").read_text())
    vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    vm.wait_ready()
    assert look_up(vm) == {"foreign": 0, "cluster": 0}
    vm.pull_the_plug()
    vm.boot()
    vm.wait_ready()
    assert look_up(vm) == {"foreign": 0, "cluster": 0}
    vm.apt("purge", "meshexp-harness")
    assert vm.file("/etc/resolv.conf").read_text() == BEFORE
    assert vm.pid(DNSMASQ) == 0


def test_servers_that_the_controller_told_are_asked_until_it_answers_again(vm: Machine) -> None:
    """After a crash that lost what it told, while it is away."""
    facts = vm.mesh.folder / "facts.yaml"
    facts.write_text(json.dumps({"dns_addresses": [f"{NODE}:1053"]}))
    vm.mesh.stop("controller", signal.SIGKILL)
    vm.mesh.start_controller(facts=str(facts))
    vm.configure()
    vm.boot()
    vm.wait_ready()
    assert "by resolv.conf" in vm.condition("Names")["message"]
    before = vm.pid(DNSMASQ)
    vm.mesh.stop("controller", signal.SIGKILL)
    vm.file("/run/meshexp/registration.json").unlink()
    vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    vm.wait(lambda: "left as the daemon before this one" in vm.condition("Names").get("message", ""))
    assert look_up(vm) == {"foreign": 0, "cluster": 0}
    vm.mesh.start_controller(facts=str(facts))
    vm.wait_ready()
    assert "by resolv.conf" in vm.condition("Names")["message"]
    assert vm.pid(DNSMASQ) == before
    vm.run("systemctl", "stop", UNIT)
    assert vm.file("/etc/resolv.conf").read_text() == BEFORE


def test_other_names_never_depend_on_the_cluster(vm: Machine) -> None:
    """Dead cluster servers, a killed dnsmasq, a killed daemon: while they are asked all the while."""
    vm.configure(dns={"servers": [f"{NODE}:1053"], "search": ["faces.svc.cluster.local"], "ndots": 3})
    vm.boot()
    vm.wait_ready()
    written = vm.file("/etc/resolv.conf").read_text()
    assert "faces.svc.cluster.local" in written and "ndots:3" in written
    assert "8000 a.face.faces" in ask(vm.mesh, "udp", "_http._tcp.face.faces.svc.cluster.local", "SRV")
    assert ask(vm.mesh, "tcp", "face.faces.svc.cluster.local", "A").endswith("10.42.0.9\n")
    vm.mesh.processes["cluster-dns"].send_signal(signal.SIGSTOP)
    vm.wait(lambda: vm.condition("Names")["problem"] == "dns-unanswered")
    asking = subprocess.Popen(
        [*vm.enter, "/usr/bin/python3", f"{CHECKOUT}/tests/netns/lookups.py", "3000", "10"], stdout=subprocess.PIPE
    )
    vm.run("systemctl", "kill", "--signal=KILL", DNSMASQ)
    vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    assert asking.poll() is None, "all of it happened meanwhile"
    found = json.loads(asking.communicate(timeout=120)[0])
    assert (found["foreign"], found["foreign_failed"]) == (2940, 0)
    vm.mesh.processes["cluster-dns"].send_signal(signal.SIGCONT)
    vm.wait_ready()
    assert look_up(vm) == {"foreign": 0, "cluster": 0}


def test_what_others_write_is_taken_over_and_a_cleanup_puts_it_back(vm: Machine) -> None:
    configure(vm)
    vm.boot()
    vm.wait_ready()
    again = BEFORE.replace("by dhclient", "by dhclient again")
    vm.file("/etc/resolv.conf").write_text(again)
    vm.wait(lambda: "127.0.0.77" in vm.file("/etc/resolv.conf").read_text())  # nobody has told the daemon
    assert look_up(vm) == {"foreign": 0, "cluster": 0}
    dropped = vm.file("/etc/meshexp/harness.d/60-test.yaml")
    dropped.write_text('dns: {mode: "off"}\n')
    vm.run("systemctl", "reload", UNIT)
    vm.wait(lambda: vm.file("/etc/resolv.conf").read_text() == again and vm.pid(DNSMASQ) == 0)
    dropped.unlink()
    vm.run("systemctl", "reload", UNIT)
    vm.wait(lambda: "127.0.0.77" in vm.file("/etc/resolv.conf").read_text())
    drop_in(vm, "[Service]\nRestart=no\n")
    vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    vm.run("meshexp", "cleanup")
    assert vm.file("/etc/resolv.conf").read_text() == again and vm.pid(DNSMASQ) == 0


def test_systemd_resolved(vm: Machine) -> None:
    vm.boot()
    # dbus reads its policy before the package has made the user.
    vm.run("sh", "-ec", "dpkg --install /opt/systemd-resolved_*.deb; systemctl reload dbus; systemctl restart systemd-resolved")
    vm.wait(lambda: "127.0.0.53" in vm.run("cat", "/etc/resolv.conf"))
    vm.run("resolvectl", "dns", "eth0", NODE)
    stub = vm.file("/etc/resolv.conf").readlink()
    links = vm.run("ip", "-br", "link")
    configure(vm)
    vm.run("systemctl", "reload", UNIT)
    vm.wait_ready()
    assert "by systemd-resolved" in vm.condition("Names")["message"]
    assert look_up(vm) == {"foreign": 0, "cluster": 0}
    assert "~cluster.local" in vm.run("resolvectl", "domain", "meshexp-dns")
    vm.run("resolvectl", "revert", "meshexp-dns")
    vm.wake()
    vm.wait(lambda: "~cluster.local" in vm.run("resolvectl", "domain", "meshexp-dns"))
    vm.run("systemctl", "restart", "systemd-resolved")
    vm.run("resolvectl", "dns", "eth0", NODE)
    vm.wake()
    vm.wait(lambda: look_up(vm) == {"foreign": 0, "cluster": 0})
    vm.mesh.processes["cluster-dns"].kill()
    assert look_up(vm)["foreign"] == 0, "a dead cluster DNS breaks no other name"
    vm.run("systemctl", "stop", UNIT)
    assert vm.run("ip", "-br", "link") == links
    assert vm.file("/etc/resolv.conf").readlink() == stub
    assert look_up(vm)["foreign"] == 0
