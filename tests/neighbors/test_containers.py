"""Podman's and libvirt's networks, made by the real programs: calls to them pass the proxy by, and all rules stay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import halted
from tests.mesh import NODE, VM
from tests.neighbors.test_firewalls import verdict
from tests.neighbors.test_resolv_conf import NAME
from tests.netns.test_dns import serve
from tests.package.machine import PODS, PROXY, UNIT, Machine, machine
from tests.package.member import repairs
from tests.package.root import layered
from tests.package.test_redirect import OTHER, PYTHON, of_unit, out, rules

# The cluster's networks have both theirs in them, and pods as well.
NETWORKS = {"10.80.0.0/12": "10.89.0.2", "192.168.96.0/19": "192.168.100.2"}
PUBLISHED = 8088
BRIDGED, GUEST = "192.168.122.0/24", "192.168.122.50"
SERVE = (PYTHON, "-c", halted.SERVE, halted.UNTOUCHED, f"::/{OTHER}")
IMAGE = """
mkdir -p /opt/image/bin
cp /bin/busybox /opt/image/bin/
tar --create --directory=/opt/image . | podman --storage-driver=vfs import - busybox
"""
ANSWER = ("/bin/busybox", "nc", "-ll", "-p", str(OTHER), "-e", "/bin/busybox", "echo", "-n", halted.UNTOUCHED)
# As they are on a machine that is no container of systemd's.
WRITABLE = """
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw /proc/sys/net
mount -o remount,rw /sys
"""
# A guest's link, without the guest. The bridge would look for loops first, for half a minute.
PLUG_IN = f"""
ip netns add guest
ip link add vnet0 type veth peer name eth0 netns guest
ip link set virbr0 type bridge stp_state 0
ip link set vnet0 master virbr0 up
ip -n guest address add {GUEST}/24 dev eth0
ip -n guest link set eth0 up
ip -n guest route add default via 192.168.122.1
"""


@pytest.fixture(scope="module")
def member(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found:
        serve(found.mesh, "cluster-dns", 1053, "--address=/cluster.local/10.42.0.9")
        found.configure(dns={"servers": [f"{NODE}:1053"]}, network={"pod_cidrs": ["10.42.0.0/24", *NETWORKS]})
        for pod in NETWORKS.values():
            found.mesh.node.run("ip", "address", "add", f"{pod}/32", "dev", "lo")
        found.mesh.start("many", found.mesh.node, *SERVE)
        found.boot()
        found.run("sh", "-ec", WRITABLE)
        found.serve()
        yield found


@pytest.fixture
def vm(member: Machine) -> Machine:
    member.wait_ready()
    return member


@contextlib.contextmanager
def undisturbed(vm: Machine) -> Iterator[None]:
    """No request fails, and nobody took a rule of ours."""
    before = repairs(vm)
    with vm.traffic():
        yield
    assert repairs(vm) == before


def set_by(vm: Machine, mark: str) -> list[str]:
    return [line for line in vm.run("iptables-save").splitlines() if mark in line]


def keeps(vm: Machine, mark: str) -> None:
    """Its rules, while ours go and come."""
    before = set_by(vm, mark)
    assert before
    vm.run("systemctl", "stop", UNIT)
    assert set_by(vm, mark) == before
    vm.run("systemctl", "start", UNIT)
    vm.wait(lambda: vm.status().get("ready"))
    assert set_by(vm, mark) == before


def podman(vm: Machine, *words: str) -> str:
    return vm.run("podman", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", *words).strip()


def test_podman(vm: Machine) -> None:
    vm.run("sh", "-ec", IMAGE)
    before = rules(vm)
    # What this machine's cgroups and limits allow in a container within a container.
    alike = ("--cgroups=disabled", "--ulimit=host", "--pull=never")
    with undisturbed(vm):
        podman(vm, "run", "--detach", "--name=own", f"--publish={PUBLISHED}:{OTHER}", *alike, "localhost/busybox", *ANSWER)
        vm.wait(lambda: "podman0" in rules(vm))
    vm.wait(lambda: vm.condition("Routes")["problem"] == "route-conflict")
    container = podman(vm, "inspect", "--format={{.NetworkSettings.IPAddress}}", "own")
    with of_unit(vm, PROXY):
        assert out(vm, container, OTHER) == halted.UNTOUCHED
        assert out(vm, NETWORKS["10.80.0.0/12"], OTHER) == halted.BY_PROXY
        assert podman(vm, "exec", "own", "/bin/busybox", "nc", "-w", "5", PODS, str(OTHER)) == halted.UNTOUCHED
        assert halted.called(vm.mesh.node.run, PYTHON, [(PODS, VM, PUBLISHED)]) == [halted.UNTOUCHED]
    keeps(vm, "NETAVARK")
    with undisturbed(vm):
        podman(vm, "rm", "--force", "--time=0", "own")
        vm.wait(lambda: rules(vm) == before)


def test_libvirt(vm: Machine) -> None:
    vm.run("systemctl", "start", "libvirtd")
    before = rules(vm)
    vm.run("ip", "route", "add", BRIDGED, "via", NODE)  # as ours, where the cluster has just this network
    assert "already in use by interface eth0" in vm.run("virsh", "net-start", "default", check=False)
    vm.run("ip", "route", "del", BRIDGED)
    with undisturbed(vm):
        vm.run("virsh", "net-start", "default")
        vm.wait(lambda: "virbr0" in rules(vm))
    vm.wait(lambda: vm.condition("Routes")["problem"] == "route-conflict")
    vm.run("sh", "-ec", PLUG_IN)
    guest = ("ip", "netns", "exec", "guest")
    vm.run("systemd-run", "--unit=guest", "--collect", *guest, *SERVE)
    vm.wait(lambda: f":{OTHER}" in vm.run(*guest, "ss", "-ltnH"))
    with of_unit(vm, PROXY):
        assert out(vm, GUEST, OTHER) == halted.UNTOUCHED
        assert out(vm, NETWORKS["192.168.96.0/19"], OTHER) == halted.BY_PROXY
    keeps(vm, "LIBVIRT")
    assert verdict(vm) == "success", "its rules for INPUT are understood"
    # Its dnsmasq has port 53 of the bridge, and ours goes on.
    vm.wait(lambda: vm.run("getent", "hosts", NAME, check=False).startswith("10.42.0.9"))
    with undisturbed(vm):
        vm.run("systemctl", "stop", "guest")
        vm.run("virsh", "net-destroy", "default")
        vm.wait(lambda: rules(vm) == before)
