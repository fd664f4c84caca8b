"""A cluster and an engine for the walk-through, and the programs that it calls: real ones, where they can be.

`linkerd` answers as it is told (a cluster without kubelets has no injector that it could find well), and `k3d` has one cluster.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests import linkerd_lab
from tests.container import engine, images, standin
from tests.container.engine import Engine
from tests.container.kubelet import NAMESPACE, PROGRAMS, Kubelet, kubelet
from tests.container.playground import CONTROLLER_NAME, NETWORK, Mesh, root_folder
from tests.kubernetes_build import helm, kubectl, kubectl_environment
from tests.linkerd_lab_box import which
from tests.linkerd_lab_cluster import DNS, NODE, POD_CIDR, POD_GATEWAY
from tests.mesh import ROOT

GROUPS = "externalgroups.workload.buoyant.io"
FACES = ("face", "smiley", "color", "faces-gui")


@dataclass(slots=True)
class Site:
    """`root`: a copy of what the walk-through needs of the repository. `bin`: the programs on its PATH."""

    mesh: Mesh
    engine: Engine
    kubelet: Kubelet
    root: Path
    bin: Path
    real: bool

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def linkerd(self, code: int = 0, said: str = "Status check results are √") -> None:
        """What `linkerd check` says from now on."""
        self.program("linkerd", f"cat <<'EOF'\n{said}\nEOF\nexit {code}")

    @contextlib.contextmanager
    def docker(self, before: str = "") -> Iterator[None]:
        """The engine's command, which for a while does something else `before`."""
        command = f'DOCKER_BUILDKIT=0 exec {" ".join(self.engine.command)} "$@"'
        self.program("docker", f"{before}\n{command}")
        try:
            yield
        finally:
            self.program("docker", command)

    def run(self, *words: str, by: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """A script of deploy/playground; stdout holds both streams."""
        return self.shell(*by.split(), f"{self.root}/deploy/playground/{words[0]}", *words[1:], **environment)

    @property
    def environment(self) -> dict[str, str]:
        folder = self.mesh.cluster.folder
        homes = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"), str(folder / "helm"))
        kubeconfig = kubectl_environment(folder / "admin.kubeconfig", folder)
        return {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(folder), **homes, **kubeconfig}

    def shell(self, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env={**self.environment, **environment}, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=900, check=False,
        )  # fmt: skip

    def verify(self, *words: str, seconds: int = 60) -> tuple[int, str]:
        where = {"PLAYGROUND_DNS": DNS, "PLAYGROUND_TIMEOUT": str(seconds)}
        done = self.run("verify", *words, **where)
        return done.returncode, done.stdout

    def kubectl(self, *words: str) -> str:
        return self.mesh.cluster.kubectl(*words)


@contextlib.contextmanager
def site(programs: Path, places: Mapping[str, str], kept: Path, folder: Path) -> Iterator[Site]:
    """A cluster with Linkerd and our controller, and nothing of the playground.

    `programs`: a folder with files in place of SPIRE and the proxy; `places`: where an image has each; `kept`: the images.
    """
    real = not linkerd_lab.MISSING
    with contextlib.ExitStack() as stack:
        mesh: Mesh = stack.enter_context(linkerd_lab.lab()) if real else stack.enter_context(standin.stand_in())
        docker = stack.enter_context(engine.engine(mesh.cluster.node.pid))
        images.build_all(docker, mesh.cluster.node, str(programs), kept, stand_ins=not real)
        _complete(docker, folder, real, places)
        bridge = "com.docker.network.bridge.name=br0"
        ours = ("--subnet=10.77.0.0/24", "--ip-range=10.77.0.128/25", f"--gateway={NODE}", "-o", bridge)
        docker.do("network", "create", *ours, NETWORK)
        mesh.cluster.name(CONTROLLER_NAME, NODE)
        made = Site(mesh, docker, stack.enter_context(kubelet(mesh.cluster, real)), folder / "root", folder / "bin", real)
        _prepare(made)
        yield made


def _complete(docker: Engine, folder: Path, real: bool, places: Mapping[str, str]) -> None:
    """The Faces image with all that a machine needs in it, so that the document's own `docker run` lines do."""
    context = folder / "image"
    context.mkdir()
    docker.do("tag", images.FACES, "faces-bare")
    if real:
        for name in places:
            shutil.copy(str(which(name)), context / name)
        steps = "".join(f"COPY {name} {place}/{name}\n" for name, place in places.items())
    else:
        standin.source(context / "source")
        variables = " ".join(f"{name}={value}" for name, value in standin.VARIABLES.items())
        steps = f"COPY source {standin.SOURCE}\nENV {variables}\n"
    (context / "Dockerfile").write_text(f"FROM faces-bare\n{steps}")
    docker.do("build", "--network=none", "--tag", images.FACES, str(context))
    shutil.rmtree(context)


def _prepare(made: Site) -> None:
    cluster, folder = made.mesh.cluster, made.mesh.cluster.folder
    made.bin.mkdir()
    shutil.copytree(ROOT / "deploy", made.root / "deploy")
    for group in (made.root / "deploy/playground").glob("*.yaml"):
        group.write_text(_patient(group.read_text()))
    (made.root / "docs").mkdir()
    shutil.copy(ROOT / "docs/playground.md", made.root / "docs")
    root_folder(made.root / "certs", cluster.pki / "ta")
    enter = f"nsenter --target {cluster.node.pid} --net --"
    with made.docker():
        pass
    made.program("kubectl", f'exec {enter} {kubectl()} "$@"')
    made.program("helm", f'exec {enter} {helm()} "$@"')
    # k3d leads the machine's port 80 to the page.
    find = f"kubectl get pod faces-gui-0 -n {NAMESPACE} -o 'jsonpath={{.status.podIP}}'"
    made.program("curl", f'exec {enter} /usr/bin/curl --connect-to "::$({find}):8000" "$@"')
    state, given = folder / "k3d", folder / "admin.kubeconfig"
    made.program(
        "k3d",
        f"""case "$1 $2" in
  "cluster create") touch {state} ;;
  "cluster get") [ -e {state} ] ;;
  "kubeconfig get") cat {given} ;;
  "cluster delete") rm {state} ;;
  *) exit 64 ;;
esac""",
    )
    made.linkerd()
    if not made.real:
        _linkerds_own(made)
    address = [{"type": "InternalIP", "address": NODE}]
    status = json.dumps({"status": {"addresses": address, "conditions": [{"type": "Ready", "status": "True"}]}})
    cluster.kubectl("patch", "node", "lab", "--subresource=status", "--type=merge", "-p", status)
    # The walk-through brings both.
    cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")
    cluster.kubectl("delete", "crd", GROUPS, "--timeout=60s")
    _chart(made.root / "faces-chart")


def _patient(manifest: str) -> str:
    """For a machine under load: probes come soon, and do not fail for an answer that takes longer than a second; and a machine
    that leaves serves on for as long as the stand-in for kube-proxy may need."""
    for key, value in {"initialDelaySeconds": 0, "periodSeconds": 1, "timeoutSeconds": 15, "failureThreshold": 3}.items():
        manifest = re.sub(rf"{key}: \d+", f"{key}: {value}", manifest)
    return re.sub(r"^  probes:", "  drainSeconds: 4\n  probes:", manifest, flags=re.MULTILINE)


def _linkerds_own(made: Site) -> None:
    """What the walk-through looks at in a cluster with Linkerd."""
    cluster = made.mesh.cluster
    anchors = {"ca-bundle.crt": (cluster.pki / "ta.crt").read_text()}
    for name, data in (("linkerd-config", {}), ("linkerd-identity-trust-roots", anchors)):
        metadata = {"name": name, "namespace": "linkerd"}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    spec = {"podCIDR": POD_CIDR, "podCIDRs": [POD_CIDR]}
    cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "lab"}, "spec": spec})
    cluster.node.do("ip", "link", "add", "cbr0", "type", "bridge")
    cluster.node.do("ip", "address", "add", f"{POD_GATEWAY}/24", "dev", "cbr0")
    cluster.node.do("ip", "link", "set", "cbr0", "up")
    cluster.node.do("sysctl", "-qw", "net.ipv4.ip_forward=1")


def _chart(folder: Path) -> None:
    """With the objects of Faces' own chart 1.2.4, which is in a registry of containers only."""
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: faces\nversion: 1.2.4\n")
    for name in FACES:
        labels = {"service": name}
        container = {
            "name": name,
            "image": f"ghcr.io/buoyantio/{PROGRAMS.get(name, name)}",
            "ports": [{"name": "http", "containerPort": 8000}],
        }
        objects = (
            {
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "http"}]},
            },
            {
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
                "spec": {
                    "replicas": 1, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
                },
            },
        )  # fmt: skip
        (folder / "templates" / f"{name}.yaml").write_text(yaml.safe_dump_all(objects))
