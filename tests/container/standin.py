"""The cluster where Linkerd's programs are not on PATH: a real API server, our controller, and who answers the development proxy.

`python3 -m tests.container.standin FOLDER` is the last: what Linkerd's controllers would make of Services and ExternalWorkloads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from demo.cluster import is_ready
from demo.endpoints import EndpointServer
from demo.machine import BRIDGE
from demo.services import Objects
from harness.proxy_environment import DESTINATION_IDENTITY
from tests import linkerd_lab_cluster as lab_cluster
from tests import linkerd_lab_pki as pki
from tests.container.api import SOCKET, Api, api
from tests.kubernetes_build import kube_apiserver, kubectl
from tests.linkerd_lab_box import box, bring_built
from tests.linkerd_lab_cluster import NODE, SERVICE_CIDR, Cluster
from tests.mesh import ENVIRONMENT, IDENTITY, ROOT, TRUST_DOMAIN
from tests.waiting import wait

NAMESPACE, PORT, SOURCE = "faces", 8086, "/opt/stand-in"
POLL_SECONDS = 0.2
# What decides where a call goes.
ROUTED = (
    f"/api/v1/namespaces/{NAMESPACE}/services",
    f"/apis/workload.linkerd.io/v1beta1/namespaces/{NAMESPACE}/externalworkloads",
    f"/api/v1/namespaces/{NAMESPACE}/pods",
    f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes",
)
# What a container gets for programs that no registry carries.
VARIABLES = {
    "MESHEXP_DEMO": "1",
    "MESHEXP_IDENTITY_MODE": "embedded",
    "MESHEXP_PROXY_PATH": f"{SOURCE}/development-proxy",
}
_ANYTHING = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
_HTTP_ROUTE = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "httproutes.gateway.networking.k8s.io",
        # Without it the API server takes no kind of that group.
        "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/3328"},
    },
    "spec": {
        "group": "gateway.networking.k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "HTTPRoute", "plural": "httproutes", "singular": "httproute"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": _ANYTHING, "subresources": {"status": {}}}],
    },
}


@dataclass(frozen=True, slots=True)
class StandIn:
    cluster: Cluster

    def workloads(self) -> dict[str, dict[str, Any]]:
        """ExternalWorkloads by their first address."""
        found = self.cluster.get("externalworkloads", "-n", NAMESPACE)["items"]
        return {item["spec"]["workloadIPs"][0]["ip"]: item for item in found}

    def endpoints(self, service: str) -> dict[str, bool]:
        return {ip: is_ready(item) for ip, item in self.workloads().items() if item["metadata"]["labels"]["service"] == service}


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    with tempfile.TemporaryDirectory(prefix="meshexp-standin-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("pki", "dns"):
            (folder / part).mkdir()
        with box("node", folder / "node", NODE) as node:
            made = Cluster(folder, node, {})
            for build in (kube_apiserver, kubectl):
                build()
            bring_built(node)
            node.do("ip", *BRIDGE)
            node.do("ip", "address", "add", f"{NODE}/24", "dev", "br0")
            node.do("ip", "link", "set", "br0", "up")
            lab_cluster.certificates(made.pki)
            pki.leaf(made.pki, "controller", "ta", "/CN=controller", f"DNS:{IDENTITY}")
            pki.leaf(made.pki, "destination", "ta", "/CN=destination", f"DNS:{DESTINATION_IDENTITY}")
            lab_cluster.start_kubernetes(made)
            lab_cluster.start_dns(made)
            _start_controller(made)
            yield StandIn(made)


def _start_controller(made: Cluster) -> None:
    deploy, keys = ROOT / "deploy", made.pki
    crds = (*sorted((deploy / "crds").rglob("*.yaml")), ROOT / "tests" / "kubernetes" / "externalworkload.yaml")
    made.kubectl("apply", "--server-side", *(f"--filename={path}" for path in crds))
    made.apply(_HTTP_ROUTE)
    made.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (NAMESPACE, "linkerd")))
    made.kubectl("apply", "--server-side", f"--filename={deploy / 'manifests' / 'meshexp-controller.yaml'}")
    made.await_crds()
    facts = {
        "service_cidrs": [SERVICE_CIDR],
        "linkerd": {"destination_address": f"{NODE}:{PORT}", "policy_address": f"{NODE}:{PORT}"},
    }
    (made.folder / "facts.yaml").write_text(yaml.safe_dump(facts))
    account = made.kubeconfig("controller", {"token": made.token("meshexp-controller", "meshexp")})
    settings = {
        "kubernetes": True, "kubeconfig": str(account),
        "tls_cert": f"{keys}/controller.crt", "tls_key": f"{keys}/controller.key", "trust_anchors": f"{keys}/ta.crt",
        "trust_domain": TRUST_DOMAIN, "listen": f"{NODE}:8081", "replica": "standin", "facts": f"{made.folder}/facts.yaml",
    }  # fmt: skip
    (made.folder / "controller.yaml").write_text(json.dumps(settings))
    environment = {name: ENVIRONMENT[name] for name in ("PYTHONPATH", "PYTHONPYCACHEPREFIX")}
    controller = ("-m", "controller", "run", "--config", f"{made.folder}/controller.yaml")
    made.node.start("controller", sys.executable, "-s", *controller, env=environment)
    api(made)
    made.node.start("endpoints", sys.executable, "-s", "-m", "tests.container.standin", str(made.folder), env=environment)
    ready = ("curl", "-fsS", "http://127.0.0.1:9995/readyz")
    wait(lambda: made.node.run(*ready)[0] == 0, why=lambda: made.node.log("controller")[-4000:])


def source(folder: Path) -> Path:
    """The stand-ins' code, open to every user, as it is mounted at SOURCE."""
    for package in ("harness", "demo"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", str(folder)], check=True)
    proxy = folder / "development-proxy"
    proxy.write_text(f"#!/bin/sh\nPYTHONPATH={SOURCE} exec /usr/bin/python3 -s -m demo.proxy\n")
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    proxy.chmod(0o755)
    return folder


async def _serve(folder: Path) -> None:
    server = EndpointServer()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "pki" / "destination.crt", folder / "pki" / "destination.key")
    await server.start(NODE, PORT, tls)
    asked = Api(folder / SOCKET)
    before: list[list[Any]] = []
    while True:
        items = await asyncio.to_thread(lambda: [asked.items(path) for path in ROUTED])
        if items != before:
            before = items
            server.update(Objects(*items))
        await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
