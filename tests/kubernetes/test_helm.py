"""The chart by helm itself into a cluster of its own, and where a real scheduler puts its pods."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.manifest import BUOYANT_GROUP_API, GROUP_API
from tests.controller_support import group_object
from tests.kubernetes.test_deploy import CHART, IMAGE, documents, render
from tests.kubernetes_build import helm, kube_scheduler
from tests.kubernetes_support import CRDS, ROOT, Cluster, end, spawn, start
from tests.waiting import wait

# What GKE has: pods of these classes only where a quota allows them, which is in kube-system.
ADMISSION = """
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: ResourceQuota
    configuration:
      apiVersion: apiserver.config.k8s.io/v1
      kind: ResourceQuotaConfiguration
      limitedResources:
        - resource: pods
          matchScopes:
            - {scopeName: PriorityClass, operator: In, values: [system-cluster-critical, system-node-critical]}
"""
OURS = "externalgroups.workload.meshexp.io"
COMPATIBLE = ROOT / "deploy" / "crds" / "compatible" / "externalgroups.workload.buoyant.io.yaml"
# Of two nodes with as many pods the emptier one is taken: without a reason against it, always the big one.
NODES = {"big": ("8", "linux"), "small": ("4", "linux"), "windows": ("64", "windows")}


@dataclass(frozen=True)
class Helmed:
    cluster: Cluster

    def helm(self, *words: str, check: bool = True) -> str:
        folder = str(self.cluster.folder / "helm")
        homes = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"), folder)
        environment = {**os.environ, **homes, "KUBECONFIG": self.cluster.kubeconfig()}
        done = subprocess.run([helm(), *words], capture_output=True, text=True, env=environment, timeout=120, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if done.returncode == 0 else done.stderr

    def install(self, *flags: str, check: bool = True) -> str:
        words = ("install", "meshexp-controller", str(CHART), "--namespace=meshexp", "--create-namespace")
        return self.helm(*words, IMAGE, *flags, check=check)

    def get(self, *words: str) -> Any:
        return json.loads(self.cluster.kubectl("get", *words, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        self.cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(objects))

    def status(self, kind: str, name: str, **status: Any) -> None:
        patch = json.dumps({"status": status})
        self.cluster.kubectl("patch", kind, name, "-n", "meshexp", "--subresource=status", "--type=merge", "-p", patch)


@pytest.fixture(scope="module")
def fresh() -> Iterator[Helmed]:
    """With nothing in it but Linkerd's CRD."""
    with tempfile.TemporaryDirectory(prefix="meshexp-helm-") as folder:
        (Path(folder) / "admission.yaml").write_text(ADMISSION)
        made = start(Path(folder), f"--admission-control-config-file={folder}/admission.yaml")
        try:
            made.apply(CRDS[0])
            yield Helmed(made)
        finally:
            for process in made.processes.values():
                end(process)


@pytest.fixture(scope="module")
def installed(fresh: Helmed) -> Helmed:
    fresh.cluster.kubectl("create", "namespace", "linkerd", check=False)
    fresh.install()
    return fresh


def test_without_linkerds_namespace_it_says_so_and_leaves_nothing(fresh: Helmed) -> None:
    said = fresh.install(check=False)
    assert "there is no namespace linkerd: install Linkerd first, or set linkerdNamespace" in said, said
    assert "there is no namespace elsewhere:" in fresh.install("--set=linkerdNamespace=elsewhere", check=False)
    names = [one["metadata"]["name"] for one in fresh.get("namespaces,clusterroles")["items"]]
    assert "meshexp" not in names and "meshexp-controller" not in names
    assert fresh.helm("list", "--all-namespaces", "-q") == ""


def test_without_an_image_it_says_so_and_leaves_nothing(fresh: Helmed) -> None:
    fresh.cluster.kubectl("create", "namespace", "linkerd", check=False)
    assert "image.repository is not set" in fresh.install("--set=image.repository=", check=False)
    assert fresh.helm("list", "--all-namespaces", "-q") == ""
    assert fresh.get("serviceaccounts,deployments", "-n", "meshexp")["items"] == []


@pytest.mark.parametrize("flags", [(), ("--set=priorityClassName=system-cluster-critical",)], ids=["the chart", "critical"])
def test_the_pod_is_taken_where_critical_pods_are_for_kube_system_alone(installed: Helmed, flags: tuple[str, ...]) -> None:
    """As on GKE. With the class its pods are refused: so this test would see it."""
    (template,) = (one["spec"]["template"] for one in documents(render(*flags)) if one["kind"] == "Deployment")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": "meshexp"}, "spec": template["spec"]}
    said = installed.cluster.kubectl("apply", "--dry-run=server", "-f", "-", given=json.dumps(pod), check=False)
    assert ("insufficient quota" if flags else "created") in said, said


def test_it_installs_upgrades_and_uninstalls(installed: Helmed) -> None:
    assert installed.helm("list", "--all-namespaces", "-q").split() == ["meshexp-controller"]
    words = ("meshexp-controller", str(CHART), "--namespace=meshexp")
    installed.helm("upgrade", *words, IMAGE, "--set=service.type=NodePort")
    assert installed.get("service", "meshexp-controller", "-n", "meshexp")["spec"]["type"] == "NodePort"
    installed.helm("uninstall", "meshexp-controller", "--namespace=meshexp")
    assert installed.get("deployments,roles", "--all-namespaces", "-l", "app.kubernetes.io/part-of=meshexp")["items"] == []
    installed.install()


def definitions(made: Helmed) -> dict[str, str]:
    """The uid of each of ours."""
    found = made.get("crd", "-l", "app.kubernetes.io/part-of=meshexp")["items"]
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}


def test_it_brings_one_definition_and_so_the_plain_name_shows_our_groups(installed: Helmed) -> None:
    assert definitions(installed).keys() == {OURS}
    installed.cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", OURS)
    installed.apply(group_object("face", "default", GROUP_API))
    assert " face " in installed.cluster.kubectl("get", "externalgroups", "-A")
    assert " face " in installed.cluster.kubectl("get", OURS, "-A")


def test_no_upgrade_deletes_a_definition(installed: Helmed, tmp_path: Path) -> None:
    """Charts of before had the compatible definition in their folder too."""
    words = ("meshexp-controller", "--namespace=meshexp")
    installed.helm("uninstall", *words)
    before = tmp_path / "chart"
    shutil.copytree(CHART, before)
    shutil.copy(COMPATIBLE, before / "crds")
    installed.helm("install", words[0], str(before), words[1], IMAGE)
    had = definitions(installed)
    assert had.keys() == {OURS, "externalgroups.workload.buoyant.io"}
    installed.cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", *had)
    installed.apply(group_object("old", "default", BUOYANT_GROUP_API))
    try:
        installed.helm("upgrade", words[0], str(CHART), words[1], "--reset-then-reuse-values")
        assert definitions(installed) == had
        installed.helm("uninstall", *words)
        assert definitions(installed) == had
        assert " old " in installed.cluster.kubectl("get", "externalgroups.workload.buoyant.io", "-A")
    finally:
        installed.cluster.kubectl("delete", "crd", "externalgroups.workload.buoyant.io")
        installed.install()


@contextlib.contextmanager
def scheduling(made: Helmed) -> Iterator[None]:
    for name, (cpus, system) in NODES.items():
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": system}
        made.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
        resources = {"cpu": cpus, "memory": "64Gi", "pods": "110"}
        made.status("node", name, capacity=resources, allocatable=resources)
        # Of a node that no kubelet has reported on; no controller is here to take it away.
        made.cluster.kubectl("patch", "node", name, "--type=merge", "-p", '{"spec": {"taints": null}}')
    flags = (f"--kubeconfig={made.cluster.kubeconfig()}", "--leader-elect=false", "--secure-port=0")
    process = spawn(made.cluster.folder, "kube-scheduler", kube_scheduler(), *flags)
    try:
        yield
    finally:
        end(process)
        made.cluster.kubectl("delete", "pods", "--all", "-n", "meshexp", "--force", "--grace-period=0")
        made.cluster.kubectl("delete", "nodes", "--all")


@dataclass(frozen=True)
class Revision:
    """The pods of one ReplicaSet, which are made by hand: no controller is here to make them."""

    made: Helmed
    template: dict[str, Any]
    number: int

    def add(self, name: str) -> str:
        """A pod; the node that it is put on."""
        pod = copy.deepcopy(self.template)
        pod["metadata"] |= {"name": name, "namespace": "meshexp"}
        pod["metadata"]["labels"]["pod-template-hash"] = f"revision-{self.number}"
        self.made.apply({"apiVersion": "v1", "kind": "Pod", **pod})
        wait(lambda: self._node(name), why=lambda: self.made.cluster.kubectl("describe", "pod", name, "-n", "meshexp"))
        return self._node(name)

    def _node(self, name: str) -> str:
        return str(self.made.get("pod", name, "-n", "meshexp")["spec"].get("nodeName") or "")


@pytest.mark.parametrize("counts_its_own", [True, False], ids=["the chart", "without matchLabelKeys"])
def test_after_a_rolling_update_there_is_one_replica_on_each_node(installed: Helmed, counts_its_own: bool) -> None:
    """Without the line both land on one: so this test would see it."""
    template = installed.get("deployment", "meshexp-controller", "-n", "meshexp")["spec"]["template"]
    if not counts_its_own:
        (spread,) = template["spec"]["topologySpreadConstraints"]
        del spread["matchLabelKeys"]
    old, new = Revision(installed, template, 1), Revision(installed, template, 2)
    with scheduling(installed):
        before = {old.add("old-1"): "old-1", old.add("old-2"): "old-2"}
        assert set(before) == {"big", "small"}
        first = new.add("new-1")
        # A ReplicaSet removes the pod whose node has most of the Deployment's.
        installed.cluster.kubectl("delete", "pod", before[first], "-n", "meshexp", "--force", "--grace-period=0")
        after = {first, new.add("new-2")}
    assert after == ({"big", "small"} if counts_its_own else {"big"})


def test_a_pod_that_is_not_ready_does_not_keep_a_node_from_being_drained(installed: Helmed) -> None:
    """The budget has nothing left, as when both replicas have lost Linkerd's identity service."""
    container = {"name": "c", "image": "x"}
    labels = {"app.kubernetes.io/name": "meshexp-controller"}
    installed.apply({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ill", "namespace": "meshexp", "labels": labels},
        "spec": {"containers": [container], "nodeName": "node"},
    })  # fmt: skip
    installed.status("pod", "ill", phase="Running", conditions=[{"type": "Ready", "status": "False"}])
    budget = {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 1, "expectedPods": 2, "observedGeneration": 1}
    installed.status("poddisruptionbudget", "meshexp-controller", **budget)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "ill", "namespace": "meshexp"}}
    path = "/api/v1/namespaces/meshexp/pods/ill/eviction"
    said = installed.cluster.kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction), check=False)
    assert '"Success"' in said, said
