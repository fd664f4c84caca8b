"""docs/upgrade.md and docs/uninstall.md: their commands, word for word, by real kubectl and helm on a real API server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import rendering
from controller.manifest import BUOYANT_GROUP_API, GROUP_API, group_from_object
from controller.model import micro_time
from controller.rendering import Membership
from harness.values import parse_address, parse_spiffe_id
from tests.controller_support import group_object
from tests.kubernetes_build import helm, kubectl
from tests.kubernetes_support import CRDS, ROOT, Cluster, end, start

DEFINITION = "externalgroups.workload.meshexp.io"
SHORT = re.compile(r"kubectl (?:-n \S+ )?(?:get|describe|delete|edit|explain|wait) externalgroups?(?![.\w])")


class Shell:
    """Where somebody types the commands: with kubectl, helm and our commands on PATH, in the project's folder."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        programs = folder / "programs"
        programs.mkdir()
        for name, path in (("kubectl", kubectl()), ("helm", helm())):
            (programs / name).symlink_to(path)
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        for name in ("kubectl-meshexp", "linkerd-meshexp"):
            module, _, function = scripts[name].partition(":")
            (programs / name).write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
            (programs / name).chmod(0o755)
        self._environment = {
            **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder), "KUBECONFIG": cluster.kubeconfig(),
            "PYTHONPATH": str(ROOT), "DISABLE_TELEMETRY": "1",
        }  # fmt: skip

    def run(self, line: str) -> str:
        command = ["bash", "-c", line]
        done = subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, line: str) -> Any:
        return json.loads(self.run(f"{line} -o json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        self.cluster.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(objects))


def commands(page: str) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture
def shell() -> Iterator[Shell]:
    with tempfile.TemporaryDirectory(prefix="meshexp-documents-") as name:
        folder = Path(name)
        made = start(folder)
        try:
            made.apply(CRDS[0])
            made.kubectl("create", "namespace", "linkerd")
            made.kubectl("create", "namespace", "faces")
            yield Shell(made, folder)
        finally:
            for process in made.processes.values():
                end(process)


def installed(shell: Shell) -> None:
    flags = "--namespace meshexp --create-namespace --set service.type=NodePort"
    shell.run(f"helm install meshexp-controller deploy/chart {flags} --set image.repository=registry.example/meshexp-controller")
    shell.cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", DEFINITION)


def a_machine(shell: Shell) -> None:
    """As the controller leaves one behind, and one that somebody made by hand."""
    shell.apply(group_object(api=GROUP_API))
    member = Membership("faces", "face", "i", 0, parse_spiffe_id("spiffe://td/face"), (parse_address("192.0.2.1"),), "vm1", "")
    made = rendering.workload(group_from_object(group_object(api=GROUP_API)), member, "cluster.local")
    uid = shell.json(f"kubectl get {DEFINITION} face -n faces")["metadata"]["uid"]
    theirs: dict[str, Any] = {name: value for name, value in made.to_object().items() if name != "status"}
    theirs["metadata"]["ownerReferences"][0]["uid"] = uid
    by_hand = {**theirs, "metadata": {"name": "by-hand", "namespace": "faces"}}
    shell.apply(theirs, by_hand)


def as_its_controllers_would(shell: Shell) -> None:
    """No controller of Deployments is here, and no pod of ours runs."""
    found = shell.json("kubectl -n meshexp get deployment meshexp-controller")
    count = found["spec"]["replicas"]
    numbers = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count)
    status = json.dumps({"status": {**numbers, "observedGeneration": found["metadata"]["generation"]}})
    words = ("patch", "deployment", "meshexp-controller", "--subresource=status", "--type=merge", "-p", status)
    shell.cluster.kubectl("-n", "meshexp", *words)


def a_replica(shell: Shell) -> None:
    """One that is alive, and hears the machine."""
    spec = {"holderIdentity": "a", "renewTime": micro_time(time.time()), "leaseDurationSeconds": 8}
    name = shell.run("kubectl get externalworkloads -n faces -l workload.meshexp.io/group -o name").strip().partition("/")[2]
    for lease in ("replica.a", f"machine.faces.{name}"):
        metadata = {"name": lease, "namespace": "meshexp"}
        shell.apply({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})


def test_upgrading(shell: Shell) -> None:
    installed(shell)
    a_machine(shell)
    # As an older release had it, installed by helm.
    older = json.dumps([{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns/2"}])
    shell.cluster.kubectl("patch", "crd", DEFINITION, "--type=json", "-p", older, "--field-manager=helm")
    assert "ACCEPTED" not in shell.run(f"kubectl get {DEFINITION} -A")
    done = []
    for line in commands("upgrade.md"):
        if "rollout" in line:
            as_its_controllers_would(shell)
            a_replica(shell)
        done.append(shell.run(line))
    assert len(done) == 6
    assert "ACCEPTED" in shell.run(f"kubectl get {DEFINITION} -A")
    assert shell.json("kubectl -n meshexp get service meshexp-controller")["spec"]["type"] == "NodePort", "a value that was set"
    assert "Status check results are √" in done[-1]


def test_uninstalling(shell: Shell) -> None:
    installed(shell)
    a_machine(shell)
    foreign = yaml.safe_load((ROOT / "deploy/crds/compatible/externalgroups.workload.buoyant.io.yaml").read_text())
    foreign["metadata"]["labels"]["app.kubernetes.io/part-of"] = "another-product"
    shell.apply(foreign)
    shell.cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", foreign["metadata"]["name"])
    shell.apply(group_object("theirs", "default", BUOYANT_GROUP_API))
    lines = commands("uninstall.md")
    assert " Unknown " in shell.run(lines[0])
    for line in lines[1:]:
        # No controller that empties namespaces is here.
        shell.run(f"{line} --wait=false" if "delete namespace" in line else line)
    left = shell.json("kubectl get externalworkloads.workload.linkerd.io -A")["items"]
    assert [one["metadata"]["name"] for one in left] == ["by-hand"]
    definitions = {one["metadata"]["name"] for one in shell.json("kubectl get crd")["items"]}
    assert definitions == {"externalworkloads.workload.linkerd.io", "externalgroups.workload.buoyant.io"}
    assert " theirs " in shell.run("kubectl get externalgroups.workload.buoyant.io -A")
    assert shell.json("kubectl -n meshexp get leases")["items"] == []
    assert shell.json("kubectl get clusterroles,roles,deployments -A -l app.kubernetes.io/part-of=meshexp")["items"] == []


def test_no_text_tells_people_the_name_that_two_definitions_share() -> None:
    """Where both are installed it means one of them only."""
    places = [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "deploy/playground").glob("*"),
    ]
    places += [path for folder in ("harness", "controller") for path in (ROOT / folder).rglob("*.py")]
    exceptions = {"docs/join.md": 1, "docs/upgrade.md": 1}  # which say so
    for path in filter(Path.is_file, places):
        name = str(path.relative_to(ROOT))
        assert len(SHORT.findall(path.read_text())) == exceptions.get(name, 0), name
