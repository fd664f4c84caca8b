"""Split DNS only where it is needed: a machine whose own name servers know the cluster's names keeps its resolver as it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh import NODE, Mesh, mesh
from tests.netns.test_dns import BEFORE, DNS_UID, counted, dnsmasq, look_up, resolv, serve

pytestmark = pytest.mark.root
OWN, CLUSTER = f"{NODE}:53", f"{NODE}:1053"
FORWARDS = f"--server=/cluster.local/{CLUSTER.replace(':', '#')}"


@pytest.fixture
def vm() -> Iterator[Mesh]:
    with mesh(dns={"servers": [CLUSTER], "user": DNS_UID}) as found:
        (found.folder / "resolv.conf").write_text(BEFORE)
        serve(found, "cluster-dns", 1053, "--address=/cluster.local/10.42.0.9")
        found.start_controller()
        yield found


def own(vm: Mesh, *records: str) -> None:
    """The machine's own name server, or another in its place."""
    if (before := vm.processes.pop("own", None)) is not None:
        before.kill()
        before.wait()
    serve(vm, "own", 53, "--address=/example.org/192.0.2.7", *records)


def names(vm: Mesh) -> str:
    return str(vm.condition("Names")["message"])


def test_servers_that_know_the_clusters_names_are_left_alone_as_long_as_they_do(vm: Mesh) -> None:
    own(vm, FORWARDS)
    vm.start_daemon()
    vm.wait_ready()
    assert f"cluster.local is asked of {NODE}, as before" in names(vm)
    assert resolv(vm) == BEFORE and dnsmasq(vm) == 0
    assert counted(look_up(vm, 50))["cluster_failed"] == 0
    assert "dns:" not in vm.meshexp("plan").stdout
    own(vm)
    vm.wait(lambda: resolv(vm) != BEFORE and "dnsmasq" in names(vm))
    assert counted(look_up(vm, 50))["cluster_failed"] == 0
    assert vm.stop("harness") == 0
    assert resolv(vm) == BEFORE


def test_servers_that_know_another_cluster_are_not_enough(vm: Mesh) -> None:
    own(vm, "--address=/cluster.local/10.99.0.1")
    vm.start_daemon()
    vm.wait_ready()
    assert f"cluster.local is asked of {CLUSTER}, by resolv.conf and dnsmasq" in names(vm)


def test_silent_servers_count_as_ones_that_do_not_know(vm: Mesh) -> None:
    vm.start_daemon()
    vm.wait_ready()
    assert f"cluster.local is asked of {CLUSTER}, by resolv.conf and dnsmasq" in names(vm)


def test_five_capabilities_suffice_where_port_53_is_nobodys_right(vm: Mesh) -> None:
    """As in a container with `--cap-drop=ALL` and the documented five: its engine lets every user have low ports."""
    vm.vm.run("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0")
    own(vm)
    kept = ",".join(["-all", *(f"+{name}" for name in ("net_admin", "setuid", "setgid", "setpcap", "kill"))])
    vm.start("harness", vm.vm, "setpriv", f"--bounding-set={kept}", "--", sys.executable, "-s", "-m", "harness", "run")
    vm.wait_ready()
    assert "by resolv.conf and dnsmasq" in names(vm)
    assert "CapEff:\t0000000000000000" in Path(f"/proc/{dnsmasq(vm)}/status").read_text()
    assert counted(look_up(vm, 50))["cluster_failed"] == 0
