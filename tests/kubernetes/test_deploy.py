"""What is applied to a cluster: to a real API server, as its users would, and no more rights than it needs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import __version__
from tests.kubernetes_build import helm
from tests.kubernetes_support import ROOT, cluster

MANIFEST = ROOT / "deploy" / "manifests" / "meshexp-controller.yaml"
CHART = ROOT / "deploy" / "chart"
ACCOUNT = "system:serviceaccount:meshexp:meshexp-controller"
IMAGE = "--set=image.repository=meshexp-controller"


def render(*flags: str, check: bool = True) -> str:
    words = ("meshexp-controller", str(CHART), "--namespace=meshexp", "--kube-version=1.34.0", IMAGE)
    command = [helm(), "template", *words, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout if done.returncode == 0 else done.stderr


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def manifest() -> list[dict[str, Any]]:
    return documents(MANIFEST.read_text())


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in manifest() if document["kind"] == kind]


def test_the_plain_manifests_apply_and_are_complete() -> None:
    made = cluster()
    made.kubectl("create", "namespace", "linkerd", check=False)
    made.apply(MANIFEST)
    kinds = {(document["kind"], document["metadata"]["name"]) for document in manifest()}
    assert {kind for kind, _ in kinds} == {
        "Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap", "Service",
        "Deployment", "NetworkPolicy", "PodDisruptionBudget",
    }  # fmt: skip
    again = made.kubectl("diff", "--server-side", "--force-conflicts", f"--filename={MANIFEST}", check=False)
    assert again == ""


@pytest.mark.parametrize("image", ["registry.example.com/meshexp-controller:1.2", "localhost:5000/one/meshexp-controller:2024"])
def test_the_walk_through_gives_the_chart_the_image_that_it_was_given(tmp_path: Path, image: str) -> None:
    """A cluster in which there is nothing yet answers every question with nothing."""
    (tmp_path / "kubectl").write_text('#!/bin/sh\ncase "$*" in *deployment*|*configmap*) exit 1 ;; esac\n')
    (tmp_path / "kubectl").chmod(0o755)
    walk = [str(ROOT / "deploy/playground/walk"), "--print", "--existing", "--controller-image", image]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    printed = subprocess.run(walk, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    (line,) = (line for line in printed if line.startswith("+ helm upgrade --install meshexp-controller "))
    words = line.split()
    given = [f"{word}={words[number + 1]}" for number, word in enumerate(words) if word.startswith("--set")]
    (deployment,) = (one for one in documents(render(*given)) if one["kind"] == "Deployment")
    assert [one["image"] for one in deployment["spec"]["template"]["spec"]["containers"]] == [image]


@pytest.mark.parametrize(
    ("verb", "what", "allowed"),
    [
        ("create", "externalworkloads.workload.linkerd.io", True),
        ("patch", "externalworkloads.workload.linkerd.io/status", True),
        ("patch", "externalgroups.workload.meshexp.io/status", True),
        ("patch", "externalgroups.workload.meshexp.io", False),
        ("delete", "externalgroups.workload.buoyant.io", False),
        ("get", "secrets", False),
        ("list", "secrets", False),
        ("list", "configmaps", False),
        ("list", "pods", False),
        ("create", "pods", False),
        ("list", "leases.coordination.k8s.io", False),
        ("get", "nodes", False),
        ("create", "serviceaccounts/token", False),
        ("impersonate", "users", False),
        ("escalate", "clusterroles.rbac.authorization.k8s.io", False),
    ],
)
def test_rights_in_every_namespace(verb: str, what: str, allowed: bool) -> None:
    cluster().apply(MANIFEST)
    kind, _, part = what.partition("/")
    flags = [f"--as={ACCOUNT}", "--all-namespaces", *([f"--subresource={part}"] if part else [])]
    said = cluster().kubectl("auth", "can-i", verb, kind, *flags, check=False)
    assert said.splitlines()[-1].startswith("yes") is allowed, said


def test_no_rule_names_secrets_or_everything() -> None:
    for document in manifest():
        for rule in document.get("rules", ()):
            assert "secrets" not in rule["resources"]
            assert "*" not in (*rule["resources"], *rule["verbs"], *rule["apiGroups"]), document["metadata"]["name"]


def test_the_pod_is_not_injected_and_has_no_privileges() -> None:
    (deployment,) = of_kind("Deployment")
    template = deployment["spec"]["template"]
    assert template["metadata"]["annotations"]["linkerd.io/inject"] == "disabled"
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    (container,) = template["spec"]["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    token = template["spec"]["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"]
    assert token["audience"] == "identity.l5d.io"


def test_a_namespace_that_enforces_the_restricted_standard_takes_the_pods() -> None:
    """The controller's, and that of `helm test`."""
    made = cluster()
    (deployment,) = of_kind("Deployment")
    (test,) = (one for one in documents(render()) if one["kind"] == "Pod")
    made.kubectl("create", "namespace", "strict", check=False)
    made.kubectl("label", "namespace", "strict", "--overwrite", "pod-security.kubernetes.io/enforce=restricted")
    for spec in (deployment["spec"]["template"]["spec"], test["spec"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "strict"}, "spec": spec}
        said = made.kubectl("apply", "--dry-run=server", "-f", "-", given=yaml.safe_dump(pod), check=False)
        assert "created" in said, said


def test_its_configuration_is_what_the_controller_reads(tmp_path: Any) -> None:
    from controller import config

    (configuration,) = of_kind("ConfigMap")
    for name, text in configuration["data"].items():
        (tmp_path / name).write_text(text)
    read = config.load(str(tmp_path / "controller.yaml"), {"facts": str(tmp_path / "facts.yaml")})
    assert read.kubernetes and str(read.listen) == "[::]:8081" and (read.lease, read.expiry) == (30.0, 900.0)
    assert config.load_facts(read).cluster_domain == "cluster.local"


def test_the_plain_manifests_are_what_the_chart_renders() -> None:
    script = ROOT / "deploy" / "manifests" / "render"
    rendered = subprocess.run(
        [str(script)], env={**os.environ, "HELM": helm()}, capture_output=True, text=True, check=True
    ).stdout
    assert MANIFEST.read_text() == rendered, f"{MANIFEST} is stale: {script} prints what it must be"
    namespace, *rest = documents(rendered)
    told = {"app.kubernetes.io/managed-by", "helm.sh/chart"}
    chart = documents(render("--skip-tests"))
    for one in chart:
        labels = one["metadata"]["labels"]
        one["metadata"]["labels"] = {key: value for key, value in labels.items() if key not in told}
    assert namespace["kind"] == "Namespace" and rest == chart


@pytest.mark.parametrize("flag", ["--set=image.repository=", "--set=image.repository=,image.tag=latest"])
def test_without_a_repository_it_says_how_to_get_one(flag: str) -> None:
    """No default could be pulled: without this, the pods would wait for an image, and `helm install --wait` for the pods."""
    said = render(flag, check=False)
    assert "image.repository is not set" in said and "docker/build meshexp-controller" in said
    assert (ROOT / "docker/build").exists() and "docker push" in (CHART / "README.md").read_text()


@pytest.mark.parametrize(
    ("flag", "image"),
    [
        ("--set=image.repository=registry.example.com:5000/team/meshexp-controller", f"{{}}:{__version__}"),
        ("--set=image.repository=meshexp-controller", f"{{}}:{__version__}"),
        ("--set=image.tag=latest,image.repository=r.example.com/c", "{}:latest"),
    ],
)
def test_the_image_is_the_repository_with_the_charts_version_or_the_tag(flag: str, image: str) -> None:
    (deployment,) = (document for document in documents(render(flag)) if document["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image.format(flag.rpartition("=")[2])


def test_the_charts_values() -> None:
    kinds = [document["kind"] for document in documents(render("--include-crds"))]
    assert kinds.count("CustomResourceDefinition") == 1 and "ServiceMonitor" not in kinds
    monitored = render("--set=serviceMonitor.enabled=true")
    assert "ServiceMonitor" in monitored and "honorLabels: true" in monitored, "`namespace` must stay the group's"
    one = [document["kind"] for document in documents(render("--set=replicas=1,networkPolicy.enabled=false"))]
    assert "PodDisruptionBudget" not in one and "NetworkPolicy" not in one
    assert "fleet_listen" not in render() and "fleet_listen: 127.0.0.1:9996" in render("--set=fleetPage.enabled=true")
    facts = render('--set-json=facts={"serviceCIDRs":["10.43.0.0/16"],"podRoutes":[{"podCIDR":"10.42.0.0/24","via":"10.9.0.1"}]}')
    data = next(d for d in documents(facts) if d["kind"] == "ConfigMap")["data"]["facts.yaml"]
    assert yaml.safe_load(data) == {
        "service_cidrs": ["10.43.0.0/16"], "pod_routes": [{"pod_cidr": "10.42.0.0/24", "via": "10.9.0.1"}],
    }  # fmt: skip


def test_the_controller_may_dial_every_inbound_port_that_is_told_to_the_chart() -> None:
    """Each workload of a machine has a proxy with a port of its own."""
    policy = next(
        d for d in documents(render("--set=networkPolicy.machinePorts={4143,4243-4250}")) if d["kind"] == "NetworkPolicy"
    )
    (egress,) = policy["spec"]["egress"]
    ports = {port["port"]: port.get("endPort") for port in egress["ports"]}
    assert (ports[4143], ports[4243]) == (None, 4250)


def test_the_service_has_an_address_of_each_family_that_the_cluster_has() -> None:
    (service,) = of_kind("Service")
    assert service["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    assert "ipFamilyPolicy: SingleStack" in render("--set=service.ipFamilyPolicy=SingleStack")


@pytest.mark.parametrize(
    "flag",
    [
        "replicaz=1", "replicas=0", "service.type=External", "service.ipFamilyPolicy=Both", "times.lease=soon", "image.tagg=x",
        "image.repository=r.example.com/c:0.1.0", "image.repository=r.example.com/c@sha256:00",
    ],
)  # fmt: skip
def test_the_schema_refuses(flag: str) -> None:
    assert "values don't meet the specifications of the schema" in render(f"--set={flag}", check=False)


def test_the_chart_applies_with_everything_on() -> None:
    flags = "--set=service.type=LoadBalancer,service.nodePort=30081,networkPolicy.machineCIDRs={10.0.0.0/8}"
    objects = documents(render(flags, "--set=tolerations[0].operator=Exists,nodeSelector.a=b,imagePullSecrets[0].name=x"))
    cluster().kubectl("create", "namespace", "meshexp", check=False)
    said = cluster().kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "-f",
        "-",
        "-o",
        "json",
        given=yaml.safe_dump_all(objects),
    )
    assert len(json.loads(said)["items"]) == len(objects)
