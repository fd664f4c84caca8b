"""The chart under names of its user's, installed by helm: its notes, what `invite` reads in the cluster, and `helm test`."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from harness.decode import decode
from harness.invitation import Invitation
from tests.chart_support import CHART, over
from tests.kubernetes.test_cluster import config_map, objects
from tests.kubernetes_build import helm
from tests.kubernetes_site import Site
from tests.kubernetes_support import ROOT
from tests.waiting import wait

RELEASE, NAMESPACE = "ours", "elsewhere"
VALUES = {
    "image": {"repository": "registry.example.com/c"}, "fullnameOverride": "registrar", "serviceAccount": {"name": "mine"},
    "service": {"port": 8443}, "networkPolicy": {"machineCIDRs": ["10.0.0.0/8"]}, "fleetPage": {"enabled": True},
    "affinity": {"nodeAffinity": {}}, "extraEnv": [{"name": "A", "value": "b"}], "podLabels": {"a": "b"},
    "commonLabels": {"c": "d"}, "commonAnnotations": {"e": "f"}, "podAnnotations": {"g": "h"},
    "tolerations": [{"operator": "Exists"}],
}  # fmt: skip
IDENTITY = f"mine.{NAMESPACE}.serviceaccount.identity.linkerd.id.example"
POD = "registrar-test"


@dataclass(frozen=True)
class Release:
    site: Site
    notes: str

    def helm(self, *words: str, values: Any = None) -> subprocess.CompletedProcess[str]:
        folder = self.site.folder / "helm"
        homes = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"), str(folder))
        environment = {**os.environ, **homes, "KUBECONFIG": self.site.cluster.kubeconfig()}
        argv = [helm(), *words, f"--namespace={NAMESPACE}", *(["--values=-"] if values else [])]
        given = json.dumps(values) if values else ""
        return subprocess.run(argv, input=given, capture_output=True, text=True, env=environment, timeout=120, check=False)

    def commands(self, *program: str) -> list[list[str]]:
        """Of the notes, those of a program."""
        lines = (line.split() for line in re.findall(r"^  (\S.*)$", self.notes, re.MULTILINE))
        return [words[len(program) :] for words in lines if tuple(words[: len(program)]) == program]

    def kubeconfig(self) -> str:
        """Of a pod under the controller's account."""
        path = self.site.cluster.kubeconfig("mine", token=self.site.cluster.token("mine", NAMESPACE))
        data = yaml.safe_load(pathlib.Path(path).read_text())
        data["contexts"][0]["context"]["namespace"] = NAMESPACE
        pathlib.Path(path).write_text(yaml.safe_dump(data))
        return path


@pytest.fixture
def release(site: Site) -> Iterator[Release]:
    kubectl = site.cluster.kubectl
    kubectl("create", "namespace", NAMESPACE, check=False)
    with objects("configmap/linkerd-config/linkerd", "configmap/linkerd-identity-trust-roots/linkerd"):
        config_map("linkerd-config", values="identityTrustDomain: id.example\nclusterDomain: cluster.example\n")
        config_map("linkerd-identity-trust-roots", **{"ca-bundle.crt": pathlib.Path(site.authority.anchors).read_text()})
        made = Release(site, "")
        done = made.helm("install", RELEASE, str(CHART), values=VALUES)
        try:
            assert done.returncode == 0, done.stderr
            yield Release(site, done.stdout)
        finally:
            made.helm("uninstall", RELEASE)
            kubectl("delete", "pod", POD, "-n", NAMESPACE, "--ignore-not-found", "--force")


def invite(release: Release, *words: str) -> tuple[int, str]:
    program = "import sys; from controller.admin import main; sys.exit(main())"
    output = f"--output={release.site.folder / 'face.invitation'}"
    argv = [sys.executable, "-c", program, *words, output, f"--kubeconfig={release.site.cluster.kubeconfig()}"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_notes_and_invite_tell_the_controllers_identity(release: Release) -> None:
    assert f"\n  {IDENTITY}\n" in release.notes, release.notes
    release.site.group()
    folder = release.site.folder / "anchor"
    folder.mkdir()
    (folder / "ca.crt").write_text(pathlib.Path(release.site.authority.anchors).read_text())
    (folder / "ca.key").write_text((release.site.folder / "mesh.key.pem").read_text())
    (words,) = release.commands("kubectl", "meshexp")
    meant = {"GROUP": "face", "NAMESPACE": "faces", "DIR": str(folder)}
    code, said = invite(release, *(meant.get(word, word) for word in words))
    assert code == 0, said
    read = json.loads((release.site.folder / "face.invitation").read_text())
    made = decode(Invitation, read, source="invitation")
    assert made.controller_identity == IDENTITY
    assert str(made.controller_address) == f"registrar.{NAMESPACE}.svc.cluster.example.:8443"


def test_the_commands_of_the_notes_are_right(release: Release) -> None:
    kubectl = release.site.cluster.kubectl
    (status,) = [words for words in release.commands("kubectl", "-n") if words[1] == "rollout"]
    # No controller of Deployments is here: it waits, but it has found the Deployment.
    said = kubectl("-n", *status, "--timeout=1s", check=False).lower()
    assert "deployment" in said and "not found" not in said
    (forward,) = [words for words in release.commands("kubectl", "-n") if words[1] == "port-forward"]
    deployment = json.loads(kubectl("-n", forward[0], "get", forward[2], "-o", "json"))
    listens = yaml.safe_load(
        json.loads(kubectl("-n", NAMESPACE, "get", "configmap", "registrar", "-o", "json"))["data"]["controller.yaml"]
    )
    assert listens["fleet_listen"] == f"127.0.0.1:{forward[3]}" and deployment["metadata"]["name"] == "registrar"
    (test,) = release.commands("helm", "test")
    assert test == [RELEASE, "--namespace", NAMESPACE]
    for service, shown in (("NodePort", "nodePort"), ("LoadBalancer", "loadBalancer")):
        values = over(VALUES, {"service": {"type": service}})
        done = release.helm("upgrade", RELEASE, str(CHART), "--dry-run=server", values=values)
        assert done.returncode == 0 and shown in done.stdout.partition("NOTES:")[2], done.stderr
        assert "--controller ADDRESS:PORT" in done.stdout


def test_linkerd_check_finds_it_by_its_namespace_alone(release: Release) -> None:
    program = "import sys; from controller.extension import main; sys.exit(main())"
    words = ("check", f"--kubeconfig={release.site.cluster.kubeconfig()}", "-o", "json", f"--controller-namespace={NAMESPACE}")
    argv = [sys.executable, "-c", program, *words]
    said = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False).stdout
    assert "0 of 2 replicas are ready" in said and "there is no Deployment" not in said


def test_without_a_controller_there_is_nothing_to_read_and_it_says_so(release: Release) -> None:
    release.site.group()
    words = ("invite", "--group=face", "-n", "faces", "--spire-server=10.9.0.7:8081", "--join-token=abc")
    code, said = invite(release, *words, "--controller-namespace=faces")
    assert code == 69 and "there is no Deployment of the controller in the namespace faces" in said and "kubectl get" in said
    code, said = invite(release, *words, "--controller-namespace=faces", "--service-account=x")
    assert code == 69 and "there is no Service of the controller" in said
    assert not (release.site.folder / "face.invitation").exists()
    told = ("--controller-namespace=faces", "--service-account=x", "--controller=10.9.0.1:30081")
    code, said = invite(release, *words, *told)
    assert code == 0, said


def run_the_test_pod(release: Release, address: str) -> str:
    """As a kubelet: the pod's command with what it mounts; `address`: what the cluster's DNS would lead to. Its output."""
    kubectl = release.site.cluster.kubectl
    found: list[Any] = []

    def made() -> bool:
        """A pod that failed stays until helm makes the next."""
        chosen = ("--field-selector", f"metadata.name={POD},status.phase=Pending")
        found[:] = json.loads(kubectl("get", "pods", "-n", NAMESPACE, *chosen, "-o", "json"))["items"]
        return bool(found)

    wait(made)
    spec = found[0]["spec"]
    (container,) = spec["containers"]
    (name,) = [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
    (mounted,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "configuration"]
    folder = release.site.folder / "mounted"
    folder.mkdir(exist_ok=True)
    for file, text in json.loads(kubectl("get", "configmap", name, "-n", NAMESPACE, "-o", "json"))["data"].items():
        (folder / file).write_text(text.replace(mounted, str(folder)))
    service = f"registrar.{NAMESPACE}.svc:8443"
    assert spec["serviceAccountName"] == "mine" and service in container["args"]
    arguments = [one.replace(mounted, str(folder)).replace(service, address) for one in container["args"]]
    arguments = [one.replace("--wait=60s", "--wait=2s") for one in arguments]
    command = [sys.executable, "-m", "controller", *arguments, f"--kubeconfig={release.kubeconfig()}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=90, check=False)
    status = json.dumps({"status": {"phase": "Failed" if done.returncode else "Succeeded"}})
    kubectl("patch", "pod", POD, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", status)
    return done.stdout + done.stderr


def helm_test(release: Release, address: str) -> tuple[int, str]:
    (words,) = release.commands("helm", "test")
    said: list[str] = []
    kubelet = threading.Thread(target=lambda: said.append(run_the_test_pod(release, address)))
    kubelet.start()
    done = release.helm("test", words[0], "--timeout=60s")
    kubelet.join()
    return done.returncode, "".join(said)


def test_helm_test_tells_the_controller_from_another(release: Release) -> None:
    """Whose certificate leads to the same anchors, but has another name; and one who does not listen."""
    certificate = release.site.authority.issue("ours", dns=(IDENTITY,))
    ours = release.site.start("a", tls_cert=certificate[0], tls_key=certificate[1]).address
    another = release.site.start("b").address
    assert helm_test(release, ours) == (0, f"{ours}: the controller answers as {IDENTITY}\n")
    code, said = helm_test(release, another)
    assert code and "ostname mismatch" in said and IDENTITY in said and "Traceback" not in said
    release.site.kill("a")
    code, said = helm_test(release, ours)
    assert code and f"TLS with {ours}: " in said and "kubectl -n elsewhere describe pods" in said and "Traceback" not in said
