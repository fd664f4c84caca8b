"""Machines that are members, one thing broken in each: `check` names it, and what the hint says mends it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.check import lab
from tests.check.lab import Act, Broken
from tests.mesh import NODE, VM, Mesh


def nft(*lines: str) -> Act:
    return lambda vm: [vm.vm.run("nft", line) for line in lines]


def ip(words: str) -> Act:
    return lambda vm: vm.vm.run("ip", *words.split())


def stopped(*names: str) -> Act:
    return lambda vm: [vm.stop(name) for name in names]


def impostor(certificate: str, clock: int = 0) -> Act:
    def act(vm: Mesh) -> None:
        vm.stop("controller")
        lab.serve_tls(vm, "impostor", 8081, certificate, clock)
        vm.wait(lambda: bool(vm.condition("Registration")["problem"]))

    return act


def controller_again(vm: Mesh) -> None:
    if "impostor" in vm.processes:
        vm.stop("impostor")
    vm.start_controller()


def served(name: str, port: int, certificate: str = "linkerd") -> Act:
    def act(vm: Mesh) -> None:
        if vm.processes[name].poll() is None:
            vm.stop(name)
        lab.serve_tls(vm, name, port, certificate)

    return act


def signalled(number: signal.Signals) -> Act:
    return lambda vm: vm.processes["harness"].send_signal(number)


def route_lost(vm: Mesh) -> None:
    """A daemon that does not put it back at once."""
    signalled(signal.SIGSTOP)(vm)
    ip("route del 10.42.0.0/24")(vm)


def proxy_broken(vm: Mesh) -> None:
    proxy = vm.folder / "development-proxy"
    proxy.with_name("whole").write_text(proxy.read_text())
    proxy.write_text("#!/bin/sh\nexit 7\n")
    subprocess.run(["kill", str(vm.status()["children"]["proxy"]["pid"])], check=True)
    vm.wait(lambda: vm.status()["children"]["proxy"]["exits"] >= 3)


def proxy_whole(vm: Mesh) -> None:
    proxy = vm.folder / "development-proxy"
    proxy.write_text(proxy.with_name("whole").read_text())
    vm.wait_ready()


def application_gone(vm: Mesh) -> None:
    vm.stop("application")
    vm.wait_problem("Application", "probe-failed")


UNHEARD = frozenset({"lease-lapsed"})
"""After a lease."""
DIALLED = frozenset({"inbound-unreached"})
"""By the controller, unless its last connection, ten seconds old at most, still came in."""
LEGACY = ("iptables-legacy", "-w", "5")
MACHINES = {
    "a key that others read": Broken(
        "secrets-exposed",
        lambda vm: (vm.folder / "certs/ca.key").chmod(0o644),
        lambda vm: (vm.folder / "certs/ca.key").chmod(0o600),
    ),
    "a key that belongs to another": Broken(
        "secrets-exposed",
        lambda vm: os.chown(vm.folder / "certs/ca.key", 65534, 0),
        lambda vm: os.chown(vm.folder / "certs/ca.key", 0, 0),
    ),
    "no CAP_NET_ADMIN": Broken(
        "privileges-missing", lambda vm: None, lambda vm: None,
        frozenset({"redirect-backend-unavailable", "firewall-drops", "kernel-unsuitable"}),
        through=("setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin", "--"),
    ),
    "a route that went": Broken("route-missing", route_lost, signalled(signal.SIGCONT), frozenset({"daemon-hangs"})),
    "a daemon that hangs": Broken("daemon-hangs", signalled(signal.SIGSTOP), signalled(signal.SIGCONT)),
    "a route inside the pod network": Broken(
        "route-conflict", ip("route add 10.42.0.128/25 via 10.9.0.77"), ip("route del 10.42.0.128/25")
    ),
    "a narrow path": Broken(
        "path-mtu", lambda vm: vm.node.run("ip", "link", "set", "eth0", "mtu", "1280"), ip("link set dev eth0 mtu 1280")
    ),
    "no controller": Broken("controller-unreachable", stopped("controller"), controller_again, UNHEARD),
    "an impostor in the controller's place": Broken(
        "controller-misnamed", impostor("linkerd"), controller_again, UNHEARD | {"controller-unreachable"}
    ),
    "a clock an hour behind": Broken(
        "clock-skew", impostor("controller", 3600), controller_again, UNHEARD | {"controller-unreachable"}
    ),
    "no destination service": Broken("destination-unreachable", stopped("destination"), served("destination", 8086)),
    "an impostor of it": Broken("destination-untrusted", served("destination", 8086, "controller"), served("destination", 8086)),
    "no policy service": Broken("policy-unreachable", stopped("policy"), served("policy", 8090)),
    "an impostor of that": Broken("policy-untrusted", served("policy", 8090, "controller"), served("policy", 8090)),
    "nftables drops": Broken(
        "firewall-drops",
        nft(
            "add table inet fw", "add chain inet fw in { type filter hook input priority 0; policy drop; }",
            "add rule inet fw in ct state established,related accept", "add rule inet fw in iifname lo accept",
            "add rule inet fw in tcp dport { 22, 8000 } accept", "add rule inet fw in ip protocol icmp accept",
        ),
        nft("add rule inet fw in tcp dport 4143 accept"),
        DIALLED,
    ),
    "legacy iptables drops": Broken(
        "firewall-drops",
        lambda vm: vm.vm.run(*LEGACY, "-A", "INPUT", "!", "-i", "lo", "-p", "tcp", "--dport", "4000:5000", "-j", "REJECT"),
        lambda vm: vm.vm.run(*LEGACY, "-I", "INPUT", "-p", "tcp", "--dport", "4143", "-j", "ACCEPT"),
        DIALLED,
    ),
    "two firewalls": Broken(
        "firewall-mixed",
        lambda vm: [
            vm.vm.run(*LEGACY, "-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "RETURN"),
            nft("add table ip mine", "add chain ip mine c { type nat hook output priority 0; }")(vm),
        ],
        nft("delete table ip mine"),
    ),
    "Istio was here": Broken(
        "other-mesh", nft("add table ip was", "add chain ip was ISTIO_OUTPUT"), nft("delete table ip was")
    ),
    "a container's port": Broken(
        "port-published",
        nft(
            "add table ip docker", "add chain ip docker DOCKER",
            "add rule ip docker DOCKER tcp dport 8000 dnat to 172.17.0.2:80",
        ),
        nft("delete table ip docker"),
    ),
    "an application that is down": Broken("probe-failed", application_gone, lab.serve_application),
    "a cordoned machine": Broken("cordoned", lambda vm: vm.meshexp("cordon"), lambda vm: vm.meshexp("uncordon")),
    "a proxy that exits": Broken("proxy-crash-loop", proxy_broken, proxy_whole),
}  # fmt: skip


@pytest.fixture(scope="module")
def vm() -> Iterator[Mesh]:
    """One for all: each test leaves it as it found it, and sees to that."""
    with lab.member() as found:
        assert lab.check(found) == {}
        yield found


@pytest.mark.parametrize("name", MACHINES)
def test_it_is_named_and_the_hint_mends_it(vm: Mesh, name: str) -> None:
    broken = MACHINES[name]
    vm.wait_ready()
    broken.break_(vm)
    try:
        lab.is_named(broken, lab.check(vm, through=broken.through))
    finally:
        broken.mend(vm)
    vm.wait(lambda: lab.check(vm) == {})


def is_well(text: str) -> bool:
    """Nothing failed; what could not be tried is counted."""
    return not {"×", "‼"} & set(text) and re.search(r"(^|\n)Status check results are √ \(\d+ skipped\)\n$", text) is not None


def test_what_all_is_well_looks_like(vm: Mesh) -> None:
    done = vm.meshexp("check")
    assert done.returncode == 0
    assert "meshexp-firewall\n----------------\n√ peers reach port 4143\n" in done.stdout
    assert f"√ peers can connect to this machine: the controller connected from {NODE} to {VM} port 4143" in done.stdout
    assert is_well(done.stdout)
    assert "- its release works with SPIRE\n    skipped: " in done.stdout, "the stand-in tells none"
    short = vm.meshexp("check", "-o", "short").stdout
    assert is_well(short) and re.fullmatch(r"Status check results are √ \(\d+ skipped\)\n", short), "nothing is wrong"
    assert "unknown-call" not in (vm.folder / "controller.log").read_text(), "it makes no noise at the controller"
    assert "√ the proxy" not in vm.meshexp("check", "--proxy").stdout


def test_what_is_wrong_is_said_with_a_reason_and_a_hint(vm: Mesh) -> None:
    vm.stop("controller")
    try:
        vm.wait_problem("Registration", "lease-lapsed")
        done = vm.meshexp("check", "-o", "short")
        assert done.returncode == 1, "peers may have stopped sending"
        assert "× the cluster still hears this machine\n    no answer for " in done.stdout
        lines = done.stdout.splitlines()
        at = lines.index(f"‼ the controller answers at {NODE}:8081")
        assert lines[at + 1].startswith(f"    {NODE}:8081: ")
        assert lines[at + 2].startswith("    controller-unreachable: ") and f"{NODE}:8081" in lines[at + 2]
        assert lines[at + 3] == "    see `meshexp explain controller-unreachable` for hints"
    finally:
        vm.start_controller()
    vm.wait_ready()


def test_waiting_until_all_is_well(vm: Mesh) -> None:
    vm.stop("application")
    vm.wait_problem("Application", "probe-failed")
    argv = [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "check", "--wait", "30", "-o", "short"]
    waiting = subprocess.Popen(argv, env=vm.environment, stdout=subprocess.PIPE, text=True)
    lab.serve_application(vm)
    assert is_well(waiting.communicate(timeout=60)[0]) and waiting.returncode == 0
    assert VM in vm.status()["workload"]["addresses"]
