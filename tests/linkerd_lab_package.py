"""A machine of the lab that has the package: a booted Debian on the machines' bridge, with its own application."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests import linkerd_lab_pki as pki
from tests.linkerd_lab import Lab
from tests.linkerd_lab_box import which
from tests.linkerd_lab_cluster import NODE
from tests.linkerd_lab_traffic import BEGUN
from tests.linkerd_lab_vm import APP_PORT, MACHINES, NAMESPACE, Load
from tests.mesh import Mesh as NodeSide
from tests.namespaces import Namespace
from tests.package.machine import CHECKOUT, Machine
from tests.package.root import layered

GROUP, ADDRESS = "packaged", "10.77.0.120"
HOST = f"{GROUP}.{NAMESPACE}.svc.cluster.local"
TRAFFIC = ("/usr/bin/python3", f"{CHECKOUT}/tests/linkerd_lab_traffic.py")


@contextlib.contextmanager
def packaged(lab: Lab, *layers: Path) -> Iterator[Machine]:
    """Ready. `layers`: of a file system into which the package was installed, the first one uppermost."""
    # A busy machine is slow to answer now and then; a daemon that is started anew registers long before its first probe.
    lab.group(GROUP, failures=5, delay=2)
    node = Namespace(lab.cluster.node.pid)
    with tempfile.TemporaryDirectory(prefix="meshexp-lab-", ignore_cleanup_errors=True) as name, layered(*layers) as root:
        folder = Path(name)
        folder.chmod(0o755)
        _certificates(lab, folder / "certs")
        (root / "etc/resolv.conf").write_text(f"nameserver {NODE}\n")
        programs = ("linkerd2-proxy", "spire-server", "spire-agent")
        binds = tuple(f"--bind-ro={which(program)}:/usr/local/bin/{program}" for program in programs)
        found = Machine(root, NodeSide(folder, node, node), binds, _plug_into_bridge)
        _configure(found)
        try:
            found.boot()
            serve = (*TRAFFIC, "serve", GROUP, str(APP_PORT), "/opt/unready")
            found.run("systemd-run", "--quiet", "--uid=nobody", *serve)
            found.wait_ready()
            lab.await_endpoints(GROUP, {ADDRESS: True})
            yield found
        finally:
            found.off()


def _plug_into_bridge(vm: Namespace, side: NodeSide) -> None:
    side.node.run("ip", "link", "add", f"v-{GROUP}", "type", "veth", "peer", "name", "eth0", "netns", str(vm.pid))
    side.node.run("ip", "link", "set", f"v-{GROUP}", "master", "br0", "up")
    vm.run("ip", "address", "add", f"{ADDRESS}/24", "dev", "eth0")
    vm.run("ip", "link", "set", "eth0", "addrgenmode", "none", "up")


def _certificates(lab: Lab, folder: Path) -> None:
    """The mesh's trust anchor, and what SPIRE on this machine signs under: ca.crt and ca.key."""
    keys = lab.cluster.pki
    pki.for_machine(folder, keys / "ta", GROUP)
    shutil.copy(keys / "ta.crt", folder / "ta.crt")


def _configure(vm: Machine) -> None:
    vm.configure(
        workload={"group": GROUP, "namespace": NAMESPACE},
        controller={"address": f"{NODE}:8081", "trust_anchors": "/opt/certs/ta.crt"},
        identity={"mode": "local", "local": {"ca_cert": "/opt/certs/ca.crt", "ca_key": "/opt/certs/ca.key"}},
        network={"node": NODE, "pod_cidrs": [], "mesh_cidrs": [MACHINES]},
        proxy={"path": "/usr/local/bin/linkerd2-proxy", "destination_address": None},
    )


@contextlib.contextmanager
def calls(vm: Machine, host: str, rate: float) -> Iterator[Load]:
    """The machine calls `host` all the while, and is answered before this returns; the result is there afterwards."""
    result = Load()
    argv = [*vm.enter, "setpriv", "--reuid=nobody", "--clear-groups", *TRAFFIC, "call", host, str(rate)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == f"{BEGUN}\n", f"no call to {host} is answered"
            yield result
        finally:
            # nsenter into a process namespace is the parent of what it runs.
            inside = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(inside[0]), signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
    result.take(output)
