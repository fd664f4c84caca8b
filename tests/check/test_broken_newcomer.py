"""Machines that are to join, one thing broken in each: `check --pre` names it, and what the hint says mends it."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import iptc
import pytest

from harness import ca
from tests.check import lab
from tests.check.lab import Act, Broken
from tests.mesh import NODE, PROXY_UID, TRUST_DOMAIN, Mesh

CONTROLLER = "meshexp-controller.meshexp.svc.cluster.local."
DESTINATION = "linkerd-dst-headless.linkerd.svc.cluster.local."
SPIFFE_ID = f"spiffe://{TRUST_DOMAIN}/face"


def configured(**sections: Any) -> Act:
    return lambda vm: lab.configure(vm, **{name: _placed(vm, section) for name, section in sections.items()})


def _placed(vm: Mesh, section: Any) -> Any:
    """`FOLDER` stands for the machine's own."""
    if isinstance(section, dict):
        return {name: _placed(vm, value) for name, value in section.items()}
    return section.replace("FOLDER", str(vm.folder)) if isinstance(section, str) else section


WELL = configured()


def both(*acts: Act) -> Act:
    return lambda vm: [act(vm) for act in acts]


def garbage(vm: Mesh) -> None:
    (vm.folder / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n")
    configured(controller={"trust_anchors": "FOLDER/garbage.pem"})(vm)


def anchor_of(days: int) -> Act:
    """Everything under a new anchor."""

    def act(vm: Mesh) -> None:
        lab.anchor(vm.folder / "certs", days)
        for name, port in (("destination", 8086), ("policy", 8090)):
            vm.stop(name)
            lab.serve_tls(vm, name, port)
        vm.stop("controller")
        vm.start_controller()
        vm.wait(lambda: ":8081" in vm.node.run("ss", "-ltnH"))

    return act


LOCAL = {
    "mode": "local",
    "spire": {"server_user": "2106", "agent_user": "2107", "server_path": "/bin/true", "agent_path": "/bin/true"},
    "local": {"ca_cert": "FOLDER/ca/ca.crt", "ca_key": "FOLDER/ca/ca.key"},
}


def intermediate(days: float, ago: float, key_of_another: bool = False) -> Act:
    """A machine's CA of `days`, made `ago` days ago."""

    def act(vm: Mesh) -> None:
        certs, folder = vm.folder / "certs", vm.folder / "ca"
        key, then = ca.new_key(), datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=ago)
        made = ca.issue(ca.load_anchor(certs / "ca.crt", certs / "ca.key"), "vm", key.public_key(), days, then)
        folder.mkdir(exist_ok=True)
        (folder / "ca.crt").write_text(ca.certificate_pem(made))
        (folder / "ca.key").write_text(ca.key_pem(ca.new_key() if key_of_another else key))
        (folder / "ca.key").chmod(0o600)
        configured(identity=LOCAL)(vm)

    return act


def root_key(vm: Mesh) -> None:
    place = {"ca_cert": "FOLDER/certs/ca.crt", "ca_key": "FOLDER/certs/ca.key", "allow_root_key": True}
    configured(identity={**LOCAL, "local": place})(vm)


EXTERNAL = {"mode": "external", "socket": "FOLDER/api/api.sock"}


def workload_api(spiffe_id: str) -> Act:
    def act(vm: Mesh) -> None:
        if "api" in vm.processes and vm.processes["api"].poll() is None:
            vm.stop("api")
        certs, socket = vm.folder / "certs", vm.folder / "api" / "api.sock"
        words = ("--ca-cert", f"{certs}/ca.crt", "--ca-key", f"{certs}/ca.key", "--svid-ttl", "1h", "--drop-uid", "65534")
        module = (sys.executable, "-s", "-m", "harness.system.workload_api_server", "--socket", str(socket))
        vm.start("api", vm.vm, *module, *words, "--spiffe-id", spiffe_id, "--uid", PROXY_UID)
        vm.wait(socket.exists)

    return act


def names(*records: str) -> Act:
    """The node's name server with these records."""

    def act(vm: Mesh) -> None:
        silent(vm)
        fixed = ("--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root", "--pid-file=")
        where = (f"--listen-address={NODE}", "--except-interface=lo", "--local=/local/")
        vm.start("dns", vm.node, "dnsmasq", "--keep-in-foreground", *fixed, *where, *records)
        vm.wait(lambda: f"{NODE}:53" in vm.node.run("ss", "-lunH"))
        (vm.folder / "resolv.conf").write_text(f"nameserver {NODE}\noptions timeout:1 attempts:1\n")
        addresses = {"destination_address": f"{DESTINATION}:8086"}
        configured(controller={"address": f"{CONTROLLER}:8081"}, proxy=addresses)(vm)

    return act


def silent(vm: Mesh) -> None:
    if "dns" in vm.processes and vm.processes["dns"].poll() is None:
        vm.stop("dns")


A = tuple(f"--host-record={name.rstrip('.')},{NODE}" for name in (CONTROLLER, DESTINATION))
SRV = f"--srv-host={DESTINATION.rstrip('.')},{DESTINATION.rstrip('.')},8086"
UNREACHED = frozenset({"controller-unreachable", "destination-unreachable"})


def taken(port: int) -> Act:
    def act(vm: Mesh) -> None:
        listen = f"import socket, time; s = socket.create_server(('0.0.0.0', {port})); time.sleep(60)"
        vm.start("other", vm.vm, sys.executable, "-c", listen)
        vm.wait(lambda: f":{port}" in vm.vm.run("ss", "-ltnH"))

    return act


def released(version: str) -> Act:
    """A program that says what linkerd2-proxy of that version says first."""

    def act(vm: Mesh) -> None:
        line = f"INFO ThreadId(01) linkerd2_proxy: release {version} (0123abc) by linkerd on 2026-01-01"
        source, program = vm.folder / "release.c", vm.folder / "released-proxy"
        source.write_text(f'#include <stdio.h>\nint main(void) {{ puts("{line}"); return 64; }}\n')
        subprocess.run(["gcc", "-o", program, source], check=True)
        configured(proxy={"path": str(program)})(vm)

    return act


def joins(vm: Mesh) -> None:
    vm.start_daemon()
    vm.wait_ready()


MACHINES = {
    "a typing error": Broken(
        "config-invalid", lambda vm: (vm.folder / "etc/harness.yaml").write_text("workload: {gruop: face}\n"), WELL
    ),
    "no user for the proxy": Broken("user-missing", configured(proxy={"user": "nobody-such"}), WELL),
    "a node out of reach": Broken("route-gateway-unreachable", configured(network={"node": "10.99.0.1"}), WELL),
    "a name that nobody knows": Broken("dns-unresolved", names(SRV, A[1]), names(SRV, *A), UNREACHED),
    "a name without SRV": Broken("dns-no-srv", names(*A), names(SRV, *A)),
    "a name server that is gone": Broken(
        "dns-silent", both(names(SRV, *A), silent), names(SRV, *A), UNREACHED | {"dns-unresolved"}
    ),
    "a port that is taken": Broken("proxy-port-taken", taken(4143), lambda vm: vm.stop("other")),
    "the metrics' port is taken": Broken("metrics-not-exported", taken(4192), lambda vm: vm.stop("other")),
    "anchors that are none": Broken(
        "anchors-unusable", garbage, WELL, frozenset({"controller-untrusted", "destination-untrusted", "policy-untrusted"})
    ),
    "an anchor that ends soon": Broken("anchors-expiring", anchor_of(30), anchor_of(400)),
    "no SPIRE agent": Broken("identity-socket-missing", configured(identity=EXTERNAL), workload_api(SPIFFE_ID)),
    "an entry for somebody else": Broken(
        "identity-not-issued",
        both(configured(identity=EXTERNAL), workload_api(f"spiffe://{TRUST_DOMAIN}/smiley")),
        workload_api(SPIFFE_ID),
    ),
    "a CA in its last third": Broken("identity-ca-expiring", intermediate(90, 70), intermediate(90, 0)),
    "a CA with another's key": Broken("identity-ca-unusable", intermediate(90, 0, key_of_another=True), intermediate(90, 0)),
    "the root's own key": Broken("identity-root-key", root_key, intermediate(90, 0)),
    "no SPIRE programs": Broken(
        "spire-missing",
        both(intermediate(90, 0), configured(identity={**LOCAL, "spire": {**LOCAL["spire"], "server_path": "/none"}})),  # type: ignore[dict-item]
        intermediate(90, 0),
    ),
    "a proxy that SPIRE cannot serve": Broken("proxy-bad-release", released("2.329.0"), released("2.331.0")),
    "no python-iptables": Broken(
        "redirect-backend-unavailable",
        configured(redirect={"backend": "iptables"}),
        WELL,
        through=("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(Path(iptc.__file__).parent)),
    ),
    "no proxy": Broken("proxy-missing", configured(proxy={"path": "/none"}), WELL),
    "no daemon": Broken("daemon-stopped", WELL, joins, pre=False),
    "an identity that the group refuses": Broken(
        "registration-refused",
        both(configured(identity={"spiffe_id": f"spiffe://{TRUST_DOMAIN}/color"}), lambda vm: refused(vm)),
        both(lambda vm: vm.stop("harness"), WELL, joins),
        frozenset({"proxy-not-certified"}),
        pre=False,
    ),
}


def refused(vm: Mesh) -> None:
    vm.start_daemon()
    vm.wait_problem("Registration", "registration-refused")


@pytest.fixture(scope="module")
def shared() -> Iterator[Mesh]:
    with lab.machine() as found:
        (found.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        assert lab.check(found, "--pre", through=own_resolver(found)) == {}
        yield found


@pytest.fixture
def vm(shared: Mesh) -> Iterator[Mesh]:
    """One for all; each test makes it anew what it was."""
    yield shared
    as_before(shared)


def as_before(vm: Mesh) -> None:
    for name in ("harness", "api", "dns"):
        if name in vm.processes and vm.processes[name].poll() is None:
            vm.stop(name)
    WELL(vm)


def own_resolver(vm: Mesh) -> tuple[str, ...]:
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return "unshare", "--mount", "sh", "-c", script, str(vm.folder / "resolv.conf")


@pytest.mark.parametrize("name", MACHINES)
def test_it_is_named_and_the_hint_mends_it(vm: Mesh, name: str) -> None:
    broken = MACHINES[name]
    through = (*own_resolver(vm), *broken.through)
    words = ("--pre",) if broken.pre else ()
    broken.break_(vm)
    lab.is_named(broken, lab.check(vm, *words, through=through))
    broken.mend(vm)
    vm.wait(lambda: lab.check(vm, *words, through=through) == {})


def test_a_machine_is_not_changed_by_it(vm: Mesh) -> None:
    before = sorted(path for folder in ("state", "run", "etc") for path in (vm.folder / folder).rglob("*"))
    assert vm.meshexp("check", "--pre").returncode == 0
    assert sorted(path for folder in ("state", "run", "etc") for path in (vm.folder / folder).rglob("*")) == before
