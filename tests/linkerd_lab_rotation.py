"""An administrator's rotation of Linkerd's trust anchor: both in the bundle, then new issuers, then the new one alone."""

from __future__ import annotations

import json
import shutil
import signal

from tests import linkerd_lab_control
from tests import linkerd_lab_pki as pki
from tests.linkerd_lab import Lab
from tests.linkerd_lab_cluster import TRUST_DOMAIN
from tests.linkerd_lab_vm import Vm


def trust(lab: Lab, *names: str) -> str:
    """Linkerd's bundle is these anchors from now on; it is what the controller tells."""
    keys = lab.cluster.pki
    bundle = "".join((keys / f"{name}.crt").read_text() for name in names)
    (keys / "ta.crt").write_text(bundle)
    patch = json.dumps({"data": {"ca-bundle.crt": bundle}})
    lab.cluster.kubectl("patch", "configmap", "linkerd-identity-trust-roots", "-n", "linkerd", "--type=merge", "-p", patch)
    return bundle


def new_anchor(lab: Lab) -> None:
    """`old` and `new`."""
    keys = lab.cluster.pki
    for kind in ("crt", "key"):
        shutil.copy(keys / f"ta.{kind}", keys / f"old.{kind}")
    pki.root(keys, "new", TRUST_DOMAIN)
    (keys / "new.crt").chmod(0o644)


def new_issuers(lab: Lab) -> None:
    """Linkerd's own, with its control plane started anew on it, and our controller, which is certified by that."""
    keys = lab.cluster.pki
    shutil.copy(keys / "new.key", keys / "ta.key")
    pki.intermediate(keys, "issuer", "new", "identity.linkerd.cluster.local")
    restart_control_plane(lab)


def restart_control_plane(lab: Lab) -> None:
    """Linkerd's, with the anchors and the issuer that are there now, and our controller, which is certified by it."""
    for pod in lab.cluster.pods.values():
        for program in tuple(pod.processes):
            pod.stop(program, signal.SIGKILL)
    linkerd_lab_control.start(lab.cluster)
    lab.kill_controller()
    lab.start_controller()
    lab.await_controller()


def new_intermediate(lab: Lab, vm: Vm) -> None:
    """As `meshexp ca issue` makes it elsewhere, copied over the one that the machine has."""
    keys, fresh = lab.cluster.pki, vm.folder / "fresh"
    pki.for_machine(fresh, keys / "new", vm.name)
    for name in ("ca.key", "ca.crt"):
        (fresh / name).replace(vm.folder / "ca" / name)
    shutil.rmtree(fresh)
