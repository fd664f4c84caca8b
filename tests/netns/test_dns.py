"""Split DNS by dnsmasq on a real machine's resolver: the cluster's names by the cluster, all others as before, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import dns_text
from tests.mesh import NODE, Mesh, mesh

pytestmark = pytest.mark.root
LOOKUPS = Path(__file__).with_name("lookups.py")
BEFORE = f"# by dhclient\nsearch example.org\nnameserver {NODE}\noptions timeout:1 attempts:2\n"
DNS_UID = "2151"


def serve(vm: Mesh, name: str, port: int, *records: str) -> None:
    argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", f"--port={port}", f"--listen-address={NODE}"]
    argv += ["--bind-interfaces", "--no-resolv", "--no-hosts", "--user=root", "--pid-file", *records]
    vm.start(name, vm.node, *argv)
    vm.wait(lambda: f"{NODE}:{port}" in vm.node.run("ss", "-lnuH"))


@pytest.fixture
def vm() -> Iterator[Mesh]:
    dns = {"servers": [f"{NODE}:1053"], "user": DNS_UID, "search": ["faces.svc.cluster.local"]}
    with mesh(dns=dns) as found:
        (found.folder / "resolv.conf").write_text(BEFORE)
        serve(found, "foreign", 53, "--address=/example.org/192.0.2.7")
        start_cluster_dns(found)
        found.start_controller()
        found.start_daemon()
        found.wait_ready()
        yield found


def start_cluster_dns(vm: Mesh) -> None:
    serve(
        vm, "cluster-dns", 1053, "--address=/cluster.local/10.42.0.9",
        "--srv-host=_http._tcp.face.faces.svc.cluster.local,a.face.faces.svc.cluster.local,8000",
    )  # fmt: skip


def resolv(vm: Mesh) -> str:
    return (vm.folder / "resolv.conf").read_text()


def look_up(vm: Mesh, number: int, threads: int = 1) -> subprocess.Popen[str]:
    return vm.vm.start(sys.executable, str(LOOKUPS), str(vm.folder / "resolv.conf"), str(number), str(threads))


def counted(process: subprocess.Popen[str]) -> dict[str, Any]:
    return dict(json.loads(process.communicate(timeout=120)[0]))


def ask(vm: Mesh, transport: str, name: str, kind: str) -> str:
    script = (
        f"import dns.message, dns.query; question = dns.message.make_query('{name}', '{kind}');"
        f"print(dns.query.{transport}(question, '{dns_text.LISTEN}', 5).answer[0])"
    )
    return vm.vm.run(sys.executable, "-c", script)


def dnsmasq(vm: Mesh) -> int:
    record = vm.folder / "run" / "children" / "dns.json"
    return int(json.loads(record.read_text())["pid"]) if record.exists() else 0


def test_names_are_split_and_a_stop_puts_all_back(vm: Mesh) -> None:
    assert "cluster.local is asked of" in vm.condition("Names")["message"]
    assert counted(look_up(vm, 100)) == {
        "foreign": 98,
        "foreign_failed": 0,
        "cluster": 2,
        "cluster_failed": 0,
        "slowest": pytest.approx(0, abs=4.5),
    }
    status = Path(f"/proc/{dnsmasq(vm)}/status").read_text()
    assert f"Uid:\t{DNS_UID}" in status and "CapEff:\t0000000000000400" in status, "a user of its own, and port 53"
    assert "8000 a.face.faces.svc.cluster.local." in ask(vm, "udp", "_http._tcp.face.faces.svc.cluster.local", "SRV")
    assert ask(vm, "tcp", "face.faces.svc.cluster.local", "A").endswith("10.42.0.9\n")
    assert vm.meshexp("plan").stdout == "# nothing to do\n", "dnsmasq runs, as the daemon's child"
    assert vm.meshexp("diff").returncode == 0
    assert vm.stop("harness") == 0
    assert resolv(vm) == BEFORE
    assert not Path(f"/proc/{dnsmasq(vm)}/cmdline").exists() or dnsmasq(vm) == 0


def test_killed_it_fails_open_and_cleanup_puts_all_back(vm: Mesh) -> None:
    vm.processes["harness"].kill()
    vm.processes["harness"].wait()
    assert resolv(vm) != BEFORE
    found = counted(look_up(vm, 100))
    assert (found["foreign_failed"], found["cluster_failed"]) == (0, 2)
    assert found["slowest"] < 4.5, "a dead server refuses at once: the resolver would wait 5 s"
    assert vm.meshexp("cleanup").returncode == 0
    assert resolv(vm) == BEFORE


def test_somebody_else_writes_the_file(vm: Mesh) -> None:
    """A lease that is renewed: the new servers are asked, and are what a stop leaves."""
    again = BEFORE.replace("by dhclient", "by dhclient again")
    (vm.folder / "resolv.conf").write_text(again)
    vm.processes["harness"].send_signal(signal.SIGUSR2)
    vm.wait(lambda: "127.0.0.77" in resolv(vm))
    assert counted(look_up(vm, 50))["cluster_failed"] == 0
    assert vm.stop("harness") == 0
    assert resolv(vm) == again


def test_ten_thousand_look_ups_through_faults(vm: Mesh) -> None:
    looking = look_up(vm, 10_000, 20)
    vm.processes["cluster-dns"].send_signal(signal.SIGSTOP)  # dead, but the port is there: questions wait
    vm.wait(lambda: looking.poll() is None)
    before = dnsmasq(vm)
    os.kill(before, signal.SIGKILL)
    vm.wait(lambda: dnsmasq(vm) not in (0, before))
    vm.processes["cluster-dns"].kill()
    vm.processes["cluster-dns"].wait()
    assert looking.poll() is None, "all of it happened meanwhile"
    found = counted(looking)
    assert (found["foreign"], found["foreign_failed"]) == (9800, 0)
    assert found["cluster_failed"] > 0, "the fault was one"
    start_cluster_dns(vm)
    vm.wait(lambda: counted(look_up(vm, 1))["cluster_failed"] == 0)


def test_names_are_there_when_a_question_was_answered(vm: Mesh) -> None:
    vm.processes["cluster-dns"].kill()
    vm.processes["cluster-dns"].wait()
    vm.wait_problem("Names", "dns-unanswered")
    said = vm.condition("Names")
    assert said["status"] == "False" and "127.0.0.77 was asked for kubernetes.default.svc.cluster.local" in said["message"]
    assert "`resolvectl query kubernetes.default.svc.cluster.local`" in said["hint"] and f"`ip route get {NODE}`" in said["hint"]
    # A server that is not the cluster's, or a domain that is not: it answers, and there is no such name.
    serve(vm, "another", 1053, "--local=/#/")
    vm.wait(lambda: "that there is no such name" in vm.condition("Names")["message"])
    said = vm.condition("Names")
    assert (said["status"], said["problem"]) == ("False", "dns-unanswered")
    assert "dns.servers and dns.domain" in said["hint"], said
    vm.stop("another")
    start_cluster_dns(vm)
    vm.wait_ready()


Break = Callable[[Mesh], object]


def immutable(vm: Mesh) -> None:
    subprocess.run(["chattr", "+i", str(vm.folder / "resolv.conf")], check=True)


def dangling(vm: Mesh) -> None:
    (vm.folder / "resolv.conf").unlink()
    (vm.folder / "resolv.conf").symlink_to("/run/nobody-made-this")


def taken(vm: Mesh) -> None:
    script = "import socket, time; s = socket.create_server(('0.0.0.0', 53)); time.sleep(600)"
    vm.start("other", vm.vm, sys.executable, "-c", script)
    vm.wait(lambda: "0.0.0.0:53" in vm.vm.run("ss", "-ltnH"))


@pytest.mark.parametrize(
    ("broken", "said", "hint"),
    [
        (immutable, "resolv.conf cannot be written: Operation not permitted", "`chattr -i {file}`"),
        (dangling, "is a link that leads to nothing: /run/nobody-made-this", "`ls -l {file}`"),
        (taken, "another server listens there already, on 0.0.0.0, port 53", "`ss -lntup 'sport = :53'`"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_what_is_in_the_way_is_said_with_a_hint_of_its_own(broken: Break, said: str, hint: str) -> None:
    with mesh(dns={"servers": [f"{NODE}:1053"], "user": DNS_UID, "mode": "resolv.conf"}) as vm:
        file = vm.folder / "resolv.conf"
        file.write_text(BEFORE)
        start_cluster_dns(vm)
        broken(vm)
        vm.start_controller()
        vm.start_daemon()
        try:
            vm.wait(lambda: said in vm.condition("Names").get("message", ""))
            assert hint.format(file=file) in vm.condition("Names")["hint"], vm.condition("Names")
            assert "apt-get" not in vm.condition("Names")["hint"]
        finally:
            subprocess.run(["chattr", "-i", str(file)], check=False, stderr=subprocess.DEVNULL)
