"""A mesh as a user would have it: a real cluster with Linkerd, our controller in it, machines that join by `meshexp run`."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import linkerd_lab_control
from tests.linkerd_lab_box import Box, box, which
from tests.linkerd_lab_cluster import NODE, Cluster, cluster
from tests.linkerd_lab_vm import APP_PORT, ENVIRONMENT, NAMESPACE, Vm
from tests.mesh import ROOT
from tests.waiting import wait

PROGRAMS = (
    "linkerd", "linkerd-controller", "linkerd-policy-controller", "linkerd2-proxy", "spire-server", "spire-agent",
    "kube-apiserver", "kubectl", "etcd", "dnsmasq",
)  # fmt: skip
MISSING = [name for name in PROGRAMS if which(name) is None]
WHY = f"not on PATH: {', '.join(MISSING)} (some are in no registry)"
FIRST_MACHINE = 100


@dataclass(slots=True)
class Lab:
    cluster: Cluster
    stack: contextlib.ExitStack
    vms: dict[str, Vm] = field(default_factory=dict)

    def vm(self, name: str, group: str, anchor: str = "ta", **sections: Any) -> Vm:
        """A machine with an application and everything that its owner sets up; the harness is not started.

        `anchor`: what its intermediate is made under, .crt and .key in the folder of keys.
        """
        made = Vm(
            self.stack.enter_context(box(name, self.cluster.folder / name, NODE)),
            self.cluster,
            group,
            f"10.77.0.{FIRST_MACHINE + len(self.vms)}",
        )
        self.vms[name] = made
        made.set_up(anchor, **sections)
        return made

    def start_controller(self, where: Box | None = None, *flags: str) -> None:
        """Outside the mesh's own proxies, on the node's address unless told otherwise, under the rights of the manifests."""
        (where or self.cluster.node).start(
            "controller", sys.executable, "-s", "-m", "controller", "run", "--config", f"{self.cluster.folder}/controller.yaml",
            *flags, env=ENVIRONMENT,
        )  # fmt: skip

    def await_controller(self) -> None:
        node = self.cluster.node
        wait(lambda: node.run("curl", "-fsS", "http://127.0.0.1:9995/readyz")[0] == 0, why=lambda: node.log("controller")[-4000:])

    def kill_controller(self) -> None:
        self.cluster.node.stop("controller", signal.SIGKILL)

    def group(self, name: str, failures: int = 1, delay: int = 0, **spec: Any) -> None:
        """An ExternalGroup whose probe follows within a second, or after some failures, and a Service for it.

        `delay`: seconds before the first probe.
        """
        http = {"port": APP_PORT, "path": "/ready", "host": "127.0.0.1", "scheme": "HTTP"}
        template = {"metadata": {"labels": {"service": name}}, "ports": [{"name": "http", "port": APP_PORT}]}
        probe = {"httpGet": http, "initialDelaySeconds": delay, "periodSeconds": 1, "failureThreshold": failures}
        self.cluster.apply(
            {
                "apiVersion": "workload.meshexp.io/v1alpha1",
                "kind": "ExternalGroup",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"template": template, "probes": [probe], **spec},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"selector": {"service": name}, "ports": [{"name": "http", "port": 80, "targetPort": APP_PORT}]},
            },
        )
        service = self.cluster.get("service", name, "-n", NAMESPACE)
        self.cluster.name(f"{name}.{NAMESPACE}.svc.cluster.local", service["spec"]["clusterIP"])

    def workloads(self) -> dict[str, dict[str, Any]]:
        """ExternalWorkloads by their first address."""
        found = self.cluster.get("externalworkloads", "-n", NAMESPACE)["items"]
        return {item["spec"]["workloadIPs"][0]["ip"]: item for item in found}

    def endpoints(self, service: str) -> dict[str, bool]:
        """Address → ready, of the slices that Linkerd itself made."""
        ours = "endpointslice.kubernetes.io/managed-by=linkerd-external-workloads-controller"
        slices = self.cluster.get("endpointslices", "-n", NAMESPACE, "-l", f"kubernetes.io/service-name={service},{ours}")[
            "items"
        ]
        return {e["addresses"][0]: e["conditions"]["ready"] for s in slices for e in s.get("endpoints") or ()}

    def await_endpoints(self, service: str, wanted: dict[str, bool], seconds: float = 60.0) -> None:
        wait(lambda: self.endpoints(service) == wanted, seconds, lambda: f"{self.endpoints(service)} instead of {wanted}", 0.1)


@contextlib.contextmanager
def lab(by_the_cli: bool = False) -> Iterator[Lab]:
    """`by_the_cli`: see cluster()."""
    with tempfile.TemporaryDirectory(prefix="meshexp-lab-", ignore_cleanup_errors=True) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        made = Lab(stack.enter_context(cluster(folder, by_the_cli)), stack)
        try:
            linkerd_lab_control.start(made.cluster)
            _install_ours(made)
            yield made
        finally:
            for vm in reversed(made.vms.values()):
                vm.end()


def _install_ours(made: Lab) -> None:
    """The CRDs, and the manifests but what only a kubelet can run."""
    there, deploy = made.cluster, ROOT / "deploy"
    crds = sorted((deploy / "crds").rglob("*.yaml"))
    files = [f"--filename={path}" for path in (*crds, deploy / "manifests" / "meshexp-controller.yaml")]
    there.kubectl("apply", "--server-side", *files)
    there.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    there.await_crds()
    account = there.token("meshexp-controller", "meshexp")
    token = there.folder / "identity-token"
    token.write_text(there.token("meshexp-controller", "meshexp", "identity.l5d.io"))
    settings = {
        "kubernetes": True,
        "kubeconfig": str(there.kubeconfig("controller", {"token": account})),
        "identity_token": str(token),
        "listen": f"{NODE}:8081",
        "replica": "lab",
    }
    (there.folder / "controller.yaml").write_text(json.dumps(settings))
    made.start_controller()
    made.await_controller()
