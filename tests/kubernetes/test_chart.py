"""What the chart renders for values that people set: names, namespaces, labels, and below a chart of their own."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart_support import CHART, NAME, Object, copy, identity, objects, only, over, template
from tests.kubernetes_build import helm
from tests.mesh import ROOT

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
ALL = {
    "replicas": 3, "serviceMonitor": {"enabled": True}, "fleetPage": {"enabled": True},
    "service": {"type": "LoadBalancer"}, "networkPolicy": {"machineCIDRs": ["10.0.0.0/8"]},
}  # fmt: skip
# Of commit 51c1d3d, before the names could be set: an upgrade must find all of them.
BEFORE = {
    ("NetworkPolicy", "meshexp"), ("PodDisruptionBudget", "meshexp"), ("ServiceAccount", "meshexp"), ("ConfigMap", "meshexp"),
    ("ClusterRole", ""), ("ClusterRoleBinding", ""), ("Role", "meshexp"), ("Role", "linkerd"), ("Role", "kube-system"),
    ("RoleBinding", "meshexp"), ("RoleBinding", "linkerd"), ("RoleBinding", "kube-system"), ("Service", "meshexp"),
    ("Deployment", "meshexp"),
}  # fmt: skip
SELECTOR = {"app.kubernetes.io/name": "meshexp-controller"}
# A parent's names, of which Helm would take one for the other.
NAMES = ("labels", "selector", "name", "fullname", "image", "annotations", "metadata", "pod", "container", "faults", "identity")


def selectors(found: list[Object]) -> list[Any]:
    """Every place where an object says which pods it means."""
    deployment = only(found, "Deployment")
    # The one for machines; there may be another one for metrics.
    service = next(one for one in found if one["kind"] == "Service" and not one["metadata"]["name"].endswith("-metrics"))
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    return [
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        only(found, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        only(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"] for one in spread),
    ]


def test_an_upgrade_finds_every_object_and_every_selector() -> None:
    """A Deployment's selector can never change; an object with another name would be a second one."""
    found = objects()
    installed = [one for one in found if "helm.sh/hook" not in one["metadata"].get("annotations", {})]
    assert {identity(one) for one in installed} == {(kind, namespace, NAME) for kind, namespace in BEFORE}
    assert selectors(found) == [SELECTOR] * 5
    assert only(found, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == NAME
    assert [port["name"] for port in only(found, "Service")["spec"]["ports"]] == ["machines"]


def test_every_template_has_the_charts_name() -> None:
    defined = [
        name
        for path in (CHART / "templates").rglob("*")
        if path.is_file()
        for name in re.findall(r'define "([^"]+)"', path.read_text())
    ]
    assert len(defined) > 10
    assert [name for name in defined if not name.startswith(f"{NAME}.")] == []


def test_below_a_chart_that_has_the_same_words_for_its_own_templates(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    copy(parent / "charts" / NAME)
    (parent / "templates").mkdir()
    (parent / "Chart.yaml").write_text("apiVersion: v2\nname: parent\nversion: 1.0.0\n")
    defines = (f'{{{{- define "{name}" }}}}parent: {name}{{{{ end }}}}' for name in NAMES)
    (parent / "templates" / "_helpers.tpl").write_text("\n".join(defines))
    values = {"global": {"theirs": True}, "enabled": True}
    repository = {"image": {"repository": "registry.example.com/meshexp-controller"}}
    below = objects({NAME: over(repository, values)}, parent)
    assert below == objects(values)


@pytest.mark.parametrize("namespace", ["meshexp", "linkerd", "kube-system"])
@pytest.mark.parametrize("linkerd", ["linkerd", "meshexp", "kube-system"])
def test_no_two_objects_have_one_name(namespace: str, linkerd: str) -> None:
    overrides: tuple[Object, ...] = (
        {},
        {"nameOverride": "one"},
        {"fullnameOverride": "two", "serviceAccount": {"name": "three"}},
    )
    for switches, names in itertools.product(({}, ALL), overrides):
        found = objects({**switches, **names, "linkerdNamespace": linkerd}, namespace=namespace)
        names_found = sorted(map(identity, found))
        assert names_found == sorted(set(names_found))
        rules = {(place, str(rule)) for place, rule in granted(found)}
        assert {place for place, _ in rules} == {"", namespace, linkerd, "kube-system"}
        assert {place for place, rule in rules if "leases" in rule} == {namespace}
        assert {place for place, rule in rules if "linkerd-identity-trust-roots" in rule} == {linkerd}
        assert {place for place, rule in rules if "resources': ['services']" in rule and "list" in rule} == {"kube-system"}


@pytest.mark.parametrize("word", ["yes", "null", "n", "e1"])
def test_a_name_that_yaml_would_take_for_something_else_stays_a_name(word: str) -> None:
    found = objects({"nameOverride": word, "serviceAccount": {"name": "7"}, "linkerdNamespace": "1e3", **ALL}, namespace="42")
    named = [value for one in found for value in identity(one)]
    assert {type(value) for value in named} == {str} and {word, "7", "1e3", "42"} <= set(named)
    assert selectors(found) == [{"app.kubernetes.io/name": word}] * 5
    assert {place for place, _ in granted(found)} == {"", "42", "1e3", "kube-system"}


def granted(found: list[Object]) -> list[tuple[str, Object]]:
    """Each rule that a binding gives to the controller's account, and where it holds."""
    deployment = only(found, "Deployment")
    account = {
        "kind": "ServiceAccount",
        "name": deployment["spec"]["template"]["spec"]["serviceAccountName"],
        "namespace": deployment["metadata"]["namespace"],
    }
    roles = {identity(one): one["rules"] for one in found if one["kind"] in ("Role", "ClusterRole")}
    rules = []
    for one in found:
        if one["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            assert one["subjects"] == [account]
            place = one["metadata"].get("namespace", "")
            rules += [(place, rule) for rule in roles[one["roleRef"]["kind"], place, one["roleRef"]["name"]]]
    return rules


@pytest.mark.parametrize(
    ("values", "account", "made"),
    [
        ({}, "meshexp-controller", True),
        ({"fullnameOverride": "other"}, "other", True),
        ({"serviceAccount": {"name": "mine", "annotations": {"a": "b"}}}, "mine", True),
        ({"serviceAccount": {"name": "mine", "create": False}}, "mine", False),
        ({"serviceAccount": {"create": False}}, "default", False),
    ],
)
def test_all_that_depends_on_the_service_account_follows_it(values: Object, account: str, made: bool) -> None:
    found = objects(values)
    assert [one["metadata"]["name"] for one in found if one["kind"] == "ServiceAccount"] == [account] * made
    config = yaml.safe_load(only(found, "ConfigMap")["data"]["controller.yaml"])
    assert config["service_account"] == account
    pods = [only(found, "Deployment")["spec"]["template"]["spec"], only(found, "Pod")["spec"]]
    assert {pod["serviceAccountName"] for pod in pods} == {account}
    assert {place for place, _ in granted(found)} == {"", "meshexp", "linkerd", "kube-system"}


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"digest": DIGEST}, f"registry.example.com/meshexp-controller@{DIGEST}"),
        ({"digest": DIGEST, "tag": "1.2"}, f"registry.example.com/meshexp-controller@{DIGEST}"),
        ({"tag": "1.2"}, "registry.example.com/meshexp-controller:1.2"),
    ],
)
def test_a_digest_wins_over_a_tag(image: Object, expected: str) -> None:
    found = objects({"image": image})
    pods = [only(found, "Deployment")["spec"]["template"]["spec"], only(found, "Pod")["spec"]]
    assert [one["image"] for pod in pods for one in pod["containers"]] == [expected, expected]


@pytest.mark.parametrize("values", [{}, {"nameOverride": "one", "fullnameOverride": "two"}, ALL], ids=["default", "named", "all"])
def test_the_labels_that_tools_look_for_are_on_every_object(values: Object) -> None:
    found = objects(values)
    for one in found:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == NAME and labels["app.kubernetes.io/managed-by"] == "Helm", identity(one)
        assert labels["helm.sh/chart"] == "meshexp-controller-0.1.0"
        name = values.get("nameOverride", NAME)
        assert labels["app.kubernetes.io/name"] == (f"{name}-test" if one["kind"] == "Pod" else name)
    pods = only(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    # Each new version of the chart would start the pods again.
    assert pods.keys() == only(found, "Deployment")["metadata"]["labels"].keys() - {
        "helm.sh/chart",
        "app.kubernetes.io/managed-by",
    }
    for one in found:
        if one["kind"] == "Service":
            assert one["spec"]["selector"].items() <= pods.items()
            assert not one["spec"]["selector"].items() <= only(found, "Pod")["metadata"]["labels"].items()


def test_helm_lints_it() -> None:
    words = [helm(), "lint", "--strict", str(CHART), "--set=image.repository=r.example.com/c", "--kube-version=1.34.0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stdout, done.stdout


SET: dict[str, Any] = {
    "replicas": 3, "image.tag": "1.2", "image.digest": DIGEST, "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "s"}], "image.repository": "elsewhere.example.com/c", "nameOverride": "one",
    "fullnameOverride": "two", "trustDomain": "example.org", "linkerdNamespace": "mesh", "times.lease": "10s",
    "times.expiry": "1h", "times.drain": "5s", "writesPerSecond": 1000000,
    "admitShortIdentities": False, "facts.serviceCIDRs": ["10.43.0.0/16"],
    "facts.meshCIDRs": ["10.9.0.0/16"], "facts.dnsAddresses": ["10.43.0.10:53"], "facts.clusterDomain": "example.org",
    "facts.podRoutes": [{"podCIDR": "10.42.0.0/24", "via": "10.9.0.1"}], "serviceAccount.create": False,
    "serviceAccount.name": "mine", "serviceAccount.annotations": {"a": "b"}, "service.type": "NodePort",
    "service.port": 443, "service.nodePort": 30081, "service.ipFamilyPolicy": "SingleStack",
    "service.externalTrafficPolicy": "Local", "service.loadBalancerSourceRanges": ["192.0.2.0/24"],
    "service.annotations": {"a": "b"}, "resources": {"limits": {"memory": "1Gi"}}, "extraEnv": [{"name": "A",
    "value": "b"}], "podSecurityContext": {"runAsUser": 1}, "securityContext": {"privileged": False},
    "commonLabels": {"a": "b"}, "commonAnnotations": {"a": "b"}, "podLabels": {"a": "b"}, "podAnnotations": {"a": "b"},
    "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "mine", "networkPolicy.enabled": False, "topologySpreadConstraints": [{"maxSkew": 1,
    "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}], "networkPolicy.machineCIDRs": ["10.0.0.0/8"],
    "networkPolicy.machinePorts": [4243], "networkPolicy.apiServerPorts": [8443], "podDisruptionBudget.enabled": False,
    "serviceMonitor.enabled": True, "serviceMonitor.interval": "1m", "serviceMonitor.labels": {"a": "b"},
    "fleetPage.enabled": True, "fleetPage.port": 9997,
}  # fmt: skip
NEEDS: dict[str, Any] = {
    "service.nodePort": {"service": {"type": "NodePort"}},
    "service.externalTrafficPolicy": {"service": {"type": "LoadBalancer"}},
    "service.loadBalancerSourceRanges": {"service": {"type": "LoadBalancer"}},
    "serviceMonitor.interval": {"serviceMonitor": {"enabled": True}},
    "serviceMonitor.labels": {"serviceMonitor": {"enabled": True}},
    "fleetPage.port": {"fleetPage": {"enabled": True}},
}


def test_there_is_another_value_for_each_key() -> None:
    """Of all that values.yaml has. A mapping of the user's own, such as nodeSelector, is one key."""
    whole = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(SET) == set(keys(whole, yaml.safe_load((CHART / "values.schema.json").read_text())))


def keys(values: Object, schema: Object) -> list[str]:
    found = []
    for key, value in values.items():
        below = schema["properties"][key]
        found += [f"{key}.{name}" for name in keys(value, below)] if "properties" in below else [key]
    return found


@pytest.mark.parametrize("key", SET)
def test_each_value_shows_in_what_is_rendered(key: str) -> None:
    value = SET[key]
    for part in reversed(key.split(".")):
        value = {part: value}
    before, after = template(NEEDS.get(key, {})), template(over(NEEDS.get(key, {}), value))
    assert (before.returncode, after.returncode) == (0, 0), after.stderr
    assert before.stdout != after.stdout


def test_a_large_number_stays_one() -> None:
    """Helm reads 1000000 as a float, and would write 1e+06, which is text in YAML 1.1."""
    data = only(objects({"writesPerSecond": 1000000, "times": {"expiry": 1000000}}), "ConfigMap")["data"]
    config = yaml.safe_load(data["controller.yaml"])
    assert (config["writes_per_second"], config["expiry"]) == (1000000, 1000000)


def test_the_table_of_values_is_up_to_date(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    shutil.copy(CHART / "README.md", readme)
    subprocess.run([sys.executable, str(ROOT / "deploy" / "chart_readme.py"), str(readme)], check=True)
    assert readme.read_text() == (CHART / "README.md").read_text(), "run `make docs`"
    for key in SET:
        assert f"\n| `{key}` | `" in readme.read_text()
