"""systemd-resolved that demands TLS or signatures of every server: the cluster's names resolve, and it still demands this of all
other servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh import NODE
from tests.netns.test_dns import serve
from tests.package.machine import UNIT, Machine, machine
from tests.package.root import layered

DOMAINS = ("cluster.local", "k8s.example.org")


@pytest.fixture(scope="module")
def vm(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found:
        serve(found.mesh, "cluster-dns", 1053, *(f"--address=/{domain}/10.42.0.9" for domain in DOMAINS))
        found.boot()
        found.run("ln", "-sf", "/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
        yield found


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("demand", ["DNSOverTLS=yes", "DNSSEC=yes", "DNSSEC=allow-downgrade"])
def test_the_clusters_names_resolve(vm: Machine, demand: str, domain: str) -> None:
    settings = vm.file("/etc/systemd/resolved.conf.d/strict.conf")
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(f"[Resolve]\n{demand}\n")
    vm.run("systemctl", "restart", "systemd-resolved")
    vm.run("resolvectl", "dns", "eth0", NODE)
    conffile = vm.file("/etc/meshexp/harness.yaml")
    conffile.write_text("")
    vm.configure(dns={"servers": [f"{NODE}:1053"], "domain": domain})
    vm.run("systemctl", "restart", UNIT)
    vm.wait_ready()
    assert "by systemd-resolved" in vm.condition("Names")["message"]
    assert vm.run("getent", "hosts", f"kubernetes.default.svc.{domain}").split()[0] == "10.42.0.9"
    what, value = demand.split("=")
    verb = what.lower()
    assert vm.run("resolvectl", verb, "meshexp-dns").split()[-1] == "no"
    assert vm.run("resolvectl", verb, "eth0").split()[-1] == value
    # Somebody sets it on our link too: it is set back.
    vm.run("resolvectl", verb, "meshexp-dns", "yes")
    vm.wake()
    vm.wait(lambda: vm.run("resolvectl", verb, "meshexp-dns").split()[-1] == "no")
