"""What a check may not or cannot look at is skipped, with the reason; and what it once did not look at."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.check.test_every_verb import NOBODY
from tests.check.test_nothing_to_look_at import CONTROLLER, FOLDERS, NETWORKS, WORKLOAD, Machine
from tests.mesh import ENVIRONMENT, certificates
from tests.namespaces import namespace


@pytest.fixture
def vm() -> Iterator[Machine]:
    with namespace() as where, tempfile.TemporaryDirectory(prefix="meshexp-test-") as folder:
        Path(folder).chmod(0o755)
        certificates(Path(folder) / "certs")
        found = Machine(Path(folder), where)
        anchors = {**CONTROLLER, "trust_anchors": f"{folder}/certs/ca.crt"}
        found.configure(workload=WORKLOAD, controller=anchors, network=NETWORKS, proxy={"user": "2102", "path": "/bin/true"})
        yield found


def test_a_configuration_that_only_root_may_read(vm: Machine) -> None:
    """It is neither wrong, nor is there none."""
    (vm.folder / "etc/harness.yaml").chmod(0o600)
    found = vm.results(through=NOBODY)
    assert {one["result"] for one in found.values()} == {"skipped"}
    assert all(one["reason"].startswith("needs root (") for one in found.values())
    for words in (("config", "check"), ("config", "show")):
        code, said = run(vm, *words)
        assert code == 77 and "harness.yaml cannot be read by this user" in said and "run it with sudo" in said
    (vm.folder / "etc/harness.yaml").chmod(0o644)
    (vm.folder / "etc/harness.d").mkdir(mode=0o700)
    assert run(vm, "config", "check")[0] == 77, "there may be more in the folder"


@pytest.mark.parametrize("part", FOLDERS.values())
def test_a_folder_of_ours_that_only_root_may_look_into(vm: Machine, part: str) -> None:
    """As an administrator's umask of 077 leaves it: each verb says so, or goes on without."""
    for folder in FOLDERS.values():
        (vm.folder / folder).mkdir(exist_ok=True)
    (vm.folder / part).chmod(0o700)
    for words in ("check", "config check", "config show", "proxy list", "status", "status --instance x"):
        code, said = run(vm, *words.split())
        assert "Traceback" not in said, said
        assert code in (0, 1) or (code == 77 and str(vm.folder / part) in said and "run it with sudo" in said), said
    told = done(vm, "status", "-o", "json")
    assert json.loads(told.stdout)["phase"]
    if part == FOLDERS["CONFIG"]:
        assert "it is not known whether there are other workloads" in told.stderr


def run(vm: Machine, *words: str) -> tuple[int, str]:
    """The exit code, and all that is said."""
    found = done(vm, *words)
    return found.returncode, found.stdout + found.stderr


def done(vm: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    folders = {f"MESHEXP_{name}_DIR={vm.folder / part}" for name, part in FOLDERS.items()}
    argv = [*vm.where.enter, "env", *folders, *NOBODY, sys.executable, "-s", "-m", "harness", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60)


def test_files_of_the_identity_that_only_root_may_look_at(vm: Machine) -> None:
    closed = vm.folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "ca.crt").write_text((vm.folder / "certs/ca.crt").read_text())
    spire = {"server_user": "2106", "agent_user": "2107", "server_path": f"{closed}/s", "agent_path": f"{closed}/a"}
    vm.configure(
        workload=WORKLOAD,
        controller={**CONTROLLER, "trust_anchors": f"{closed}/ca.crt"},
        network=NETWORKS,
        identity={"mode": "local", "spire": spire},
        proxy={"user": "2102", "path": f"{closed}/proxy"},
    )
    found = vm.results("--pre", through=NOBODY)
    for text in (
        "the trust anchors can be used", "SPIRE's programs are installed", "linkerd2-proxy is installed",
        "SPIRE can sign under its certificate",
    ):  # fmt: skip
        assert found[text]["result"] == "skipped" and found[text]["reason"].startswith("needs root ("), found[text]
    by_root = vm.results("--pre")
    assert by_root["SPIRE's programs are installed"]["code"] == "spire-missing"
    assert by_root["linkerd2-proxy is installed"]["code"] == "proxy-missing"


def test_a_status_that_only_root_may_read(vm: Machine) -> None:
    (vm.folder / "run").mkdir()
    (vm.folder / "run/status.json").write_text(json.dumps({"phase": "Ready"}))
    (vm.folder / "run/status.json").chmod(0o600)
    found = vm.results("--proxy", through=NOBODY)
    assert found["meshexp-harness runs"]["result"] == "skipped"
    assert found["meshexp-harness runs"]["reason"].startswith("needs root (")


def linked(vm: Machine) -> None:
    """With a way to peers of both families."""
    for words in (
        "link add eth0 type veth peer name eth1", "link set eth1 up", "link set eth0 up", "addr add 10.42.9.9/8 dev eth0",
        "addr add fd42::9/16 dev eth0 nodad",
    ):  # fmt: skip
        vm.where.run("ip", *words.split())


@pytest.mark.parametrize("family", ["iptables", "ip6tables"])
def test_legacy_rules_of_both_families(vm: Machine, family: str) -> None:
    peers = {"iptables": "10.42.0.0/24", "ip6tables": "fd42::/64"}
    linked(vm)
    network = {"mesh_cidrs": list(peers.values())}
    vm.configure(workload=WORKLOAD, controller=CONTROLLER, network=network, proxy={"user": "2102", "path": "/bin/true"})
    legacy = (f"{family}-legacy", "-w", "5")
    vm.where.run(*legacy, "-t", "nat", "-N", "ISTIO_OUTPUT")
    vm.where.run(*legacy, "-A", "INPUT", "-p", "tcp", "--dport", "4143", "-j", "DROP")
    found = vm.results("--pre")
    peers_text = found["peers reach port 4143"]
    assert peers_text["code"] == "firewall-drops" and f"{family} filter INPUT" in peers_text["error"], peers_text
    assert found["no other mesh is on this machine"]["code"] == "other-mesh"
    vm.where.run(*legacy, "-D", "INPUT", "1")
    assert vm.results("--pre")["peers reach port 4143"]["result"] == "success"


@pytest.mark.parametrize("family", ["iptables", "ip6tables"])
def test_rules_of_iptables_in_nftables(vm: Machine, family: str) -> None:
    """The kernel's JSON has only the names of such matches: conntrack, multiport, comment."""
    linked(vm)
    network = {"mesh_cidrs": ["10.42.0.0/24", "fd42::/64"]}
    vm.configure(workload=WORKLOAD, controller=CONTROLLER, network=network, proxy={"user": "2102", "path": "/bin/true"})
    add = (f"{family}-nft", "-A", "INPUT", "-p", "tcp", "-m")
    comment = ("-m", "comment", "--comment", 'it\'s "-j DROP"')
    vm.where.run(*add, "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
    vm.where.run(*add, "multiport", "--dports", "22,80", *comment, "-j", "ACCEPT")
    assert vm.results("--pre")["peers reach port 4143"]["result"] == "success"
    vm.where.run(*add, "multiport", "!", "--dports", "22,80", *comment, "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP")
    dropped = vm.results("--pre")["peers reach port 4143"]
    assert dropped["code"] == "firewall-drops" and f"{family}-nft filter INPUT: `-A INPUT" in dropped["error"], dropped
    vm.where.run(f"{family}-nft", "-D", "INPUT", "3")
    vm.where.run(f"{family}-nft", "-P", "INPUT", "DROP")
    assert "its policy is drop" in vm.results("--pre")["peers reach port 4143"]["error"]
    vm.where.run(*add, "limit", "--limit", "5/sec", "-j", "ACCEPT")
    perhaps = vm.results("--pre")["peers reach port 4143"]
    assert perhaps["result"] == "skipped" and "--limit 5/sec -j ACCEPT` applies to peers" in perhaps["reason"], perhaps
    vm.where.run(f"{family}-nft", "-N", "mesh")
    vm.where.run(f"{family}-nft", "-A", "INPUT", "-i", "eth0", "-j", "mesh")
    accept = ("-m", "conntrack", "--ctstate", "NEW", "-m", "multiport", "--dports", "4143", "-j", "ACCEPT")
    vm.where.run(f"{family}-nft", "-A", "mesh", "-p", "tcp", *comment, *accept)
    vm.where.run(f"{family}-nft", "-D", "INPUT", "3")
    assert vm.results("--pre")["peers reach port 4143"]["result"] == "success"


def test_iptables_in_nftables_without_the_program_that_reads_it(vm: Machine) -> None:
    """Then nothing is claimed that the kernel's own listing does not show."""
    linked(vm)
    network = {"mesh_cidrs": ["10.42.0.0/24"]}
    vm.configure(workload=WORKLOAD, controller=CONTROLLER, network=network, proxy={"user": "2102", "path": "/bin/true"})
    vm.where.run("iptables-nft", "-A", "INPUT", "-p", "tcp", "-m", "multiport", "--dports", "4000,4143", "-j", "DROP")
    (vm.folder / "fails").write_text("#!/bin/sh\necho no way >&2\nexit 3\n")
    (vm.folder / "fails").chmod(0o755)
    script = 'mount --bind "$0" "$(readlink -f /usr/sbin/iptables-nft-save)" && exec "$@"'
    found = vm.results("--pre", through=("unshare", "--mount", "sh", "-c", script, str(vm.folder / "fails")))
    there = found["peers reach port 4143"]
    assert there["result"] == "skipped" and "no way" in there["reason"] and "drop by handle" in there["reason"], there


@pytest.mark.parametrize("table", ["ip6", "inet"])
def test_rules_of_nftables_for_ipv6(vm: Machine, table: str) -> None:
    linked(vm)
    network = {"mesh_cidrs": ["10.42.0.0/24", "fd42::/64"]}
    vm.configure(workload=WORKLOAD, controller=CONTROLLER, network=network, proxy={"user": "2102", "path": "/bin/true"})
    vm.where.run("nft", f"add table {table} fw")
    vm.where.run("nft", f"add chain {table} fw in {{ type filter hook input priority 0; }}")
    only = "meta nfproto ipv6 " if table == "inet" else ""
    vm.where.run("nft", f"add rule {table} fw in {only}tcp dport 4143 drop")
    assert vm.results("--pre")["peers reach port 4143"]["code"] == "firewall-drops"
    vm.where.run("nft", f"insert rule {table} fw in ip6 saddr fd42::/64 accept")
    assert vm.results("--pre")["peers reach port 4143"]["result"] == "success"
