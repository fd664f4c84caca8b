"""The kinds as a person meets them: what is refused with what words, and what kubectl shows."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from controller.kubernetes.store import KubernetesStore
from controller.manifest import BUOYANT_GROUP_API, GROUP_API, GroupStatus, stored_group
from controller.model import Condition, Key
from tests.controller_support import group, group_object
from tests.kubernetes_site import Site
from tests.kubernetes_support import ROOT, cluster
from tests.waiting import wait

CRDS = ROOT / "deploy" / "crds"
COMPATIBLE = CRDS / "compatible"
COMPATIBLE_NAME = f"externalgroups.{BUOYANT_GROUP_API.partition('/')[0]}"


def apply(*objects: Any) -> str:
    return cluster().kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(objects), check=False)


def template(**fields: Any) -> dict[str, Any]:
    return {"template": fields}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no kind of probe": ({"probes": [{"periodSeconds": 1}]}, "exactly one of httpGet"),
    "two kinds of probe": ({"probes": [{"tcpSocket": {"port": 1}, "exec": {"name": "x"}}]}, "exactly one of httpGet"),
    "a port out of range": (template(ports=[{"port": 70000}]), "65535"),
    "a port twice": (template(ports=[{"port": 80}, {"port": 80, "protocol": "TCP"}]), "only once"),
    "a port's name twice": (template(ports=[{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]), "only once"),
    "a protocol that is none": (template(ports=[{"port": 80, "protocol": "SCTP"}]), "Unsupported value"),
    "a label's value": (template(metadata={"labels": {"a": "b c"}}), "should match"),
    "an unknown address proof": ({"admission": {"addressProof": "maybe"}}, "Unsupported value"),
    "off without quotes": ({"admission": {"addressProof": False}}, "expected string"),
    "a SPIFFE ID without scheme": ({"admission": {"spiffeIDs": ["face"]}}, "should match"),
    "a network with host bits": ({"admission": {"addressCIDRs": ["10.0.0.1/8"]}}, "without host bits"),
    "an expiry below the lease": ({"leaseSeconds": 60, "expirySeconds": 30}, "must not be below leaseSeconds"),
    "a period of nothing": ({"probes": [{"tcpSocket": {"port": 1}, "periodSeconds": 0}]}, "at least 1"),
    "a probe's port out of range": ({"probes": [{"tcpSocket": {"port": 0}}]}, "greater than or equal to 1"),
    "a probe's port that is no integer": ({"probes": [{"grpc": {"port": 8.5}}]}, "must be of type integer"),
}
NO_NAMES = ("80", "Http", "a b", "", "averyverylongname")


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("api", [GROUP_API, BUOYANT_GROUP_API])
def test_refused_by_the_server(name: str, api: str) -> None:
    spec, words = REFUSED[name]
    assert words in apply(group_object("bad", api=api) | {"spec": spec})


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_probes_port_that_can_be_no_name_is_refused(name: str) -> None:
    spec = {"probes": [{"httpGet": {"port": name}}]}
    said = apply(group_object("bad", api=GROUP_API) | {"spec": spec})
    assert "spec.probes[0].httpGet.port" in said and "is invalid" in said


UNKNOWN_NAMES = {
    "no ports": {"probes": [{"httpGet": {"port": "http"}}]},
    "another name": {"probes": [{"tcpSocket": {"port": "htp"}}], "template": {"ports": [{"port": 1, "name": "http"}]}},
    "of UDP": {"probes": [{"grpc": {"port": "u"}}], "template": {"ports": [{"port": 1, "name": "u", "protocol": "UDP"}]}},
    "in the old place": {"template": {"ports": [{"port": 1, "name": "a"}], "probes": [{"grpc": {"port": "b"}}]}},
}


@pytest.mark.parametrize("name", UNKNOWN_NAMES)
def test_a_probes_port_by_a_name_that_the_group_does_not_have_is_refused(name: str) -> None:
    item = group_object("bad", api=GROUP_API) | {"spec": UNKNOWN_NAMES[name]}
    assert "the port of a probe must be a number or the name of a TCP port" in apply(item)
    assert stored_group(item).fault, "and the controller says the same, where it reads the group from a file"


def test_the_most_probes_and_ports_are_within_the_cost_of_the_rules() -> None:
    probes = [{kind: {"port": "p63"}} for kind in ("httpGet", "grpc")] * 8
    ports = [{"port": number, "name": f"p{number}"} for number in range(1, 65)]
    assert "applied" in apply(
        group_object("most", api=GROUP_API) | {"spec": template(ports=ports, probes=probes) | {"probes": probes}}
    )
    cluster().kubectl("-n", "faces", "delete", "externalgroups.workload.meshexp.io", "most")


def test_the_compatible_kind_takes_numbers_only() -> None:
    spec = {"probes": [{"httpGet": {"port": "http"}}]}
    assert "expected numeric" in apply(group_object("bad", api=BUOYANT_GROUP_API) | {"spec": spec})


def test_a_name_that_is_no_label_is_refused() -> None:
    assert "DNS label" in apply(group_object("a.b", api=GROUP_API))
    assert "DNS label" in apply(group_object("x" * 64, api=GROUP_API) | {"spec": {}})


FULL: dict[str, Any] = {
    "template": {
        "metadata": {"labels": {"app": "x"}, "annotations": {"config.linkerd.io/default-inbound-policy": "deny"}},
        "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP", "name": "dns"}],
        "probes": [{"exec": {"name": "check"}}],
    },
    "probes": [
        {"httpGet": {"port": 1, "path": "/x", "scheme": "HTTPS", "httpHeaders": [{"name": "A", "value": "b"}]}},
        {"tcpSocket": {"port": 2, "host": "::1"}, "periodSeconds": 0.5},
        {"grpc": {"port": 3, "service": "s"}, "failureThreshold": 9},
    ],
    "admission": {
        "addressProof": "off", "spiffeIDs": ["spiffe://td/vm-*"], "addressCIDRs": ["10.0.0.0/8", "fd00::/8"], "maximum": 3,
    },
    "leaseSeconds": 5.5, "expirySeconds": 60, "drainSeconds": 0,
}  # fmt: skip


@pytest.mark.parametrize("api", [GROUP_API, BUOYANT_GROUP_API])
def test_every_field_comes_through(api: str) -> None:
    named = {"probes": [*FULL["probes"], {"grpc": {"port": "dns"}}]} if api == GROUP_API else {}
    full = group_object("full", api=api) | {"spec": FULL | named}
    assert "applied" in apply(full)

    async def main() -> None:
        async with cluster().client() as client:
            store = KubernetesStore(client)
            groups = store.groups if api == GROUP_API else store.buoyant_groups
            found = await groups.get(Key("faces", "full"))
            assert found.spec == stored_group(full).spec and not found.fault
            await groups.delete(found.key)

    asyncio.run(main())


def test_the_playgrounds_manifests_apply() -> None:
    files = sorted((ROOT / "deploy" / "playground").glob("*.yaml"))
    documents = [d for path in files for d in yaml.safe_load_all(path.read_text()) if d and d["kind"] == "ExternalGroup"]
    assert documents
    for document in documents:
        namespace = document["metadata"].get("namespace", "default")
        cluster().kubectl("create", "namespace", namespace, check=False)
        assert "applied" in apply(document)
        cluster().kubectl("-n", namespace, "delete", f"externalgroups.{document['apiVersion'].partition('/')[0]}", "--all")


@pytest.mark.parametrize("api", [GROUP_API, BUOYANT_GROUP_API])
def test_what_kubectl_shows(api: str) -> None:
    made, full_name = cluster(), f"externalgroups.{api.partition('/')[0]}"

    async def main() -> None:
        async with made.client() as client:
            store = KubernetesStore(client)
            groups = store.groups if api == GROUP_API else store.buoyant_groups
            for item in (await groups.list()).items:
                await groups.delete(item.key)
            face = await groups.create(group(api=api))
            conditions = (Condition("Accepted", "True", "Valid", "", "2026-01-01T00:00:00Z", 1),)
            status = GroupStatus(1, "3/4", 3, 4, "http :8000/ready", conditions)
            assert (await groups.patch_status(dataclasses.replace(face, status=status))).status == status

    asyncio.run(main())
    header, line = made.kubectl("-n", "faces", "get", full_name).splitlines()
    assert header.split() == ["NAME", "READY", "WORKLOADS", "ACCEPTED", "PROBE", "AGE"]
    assert line.split()[:6] == ["face", "3/4", "4", "True", "http", ":8000/ready"]
    assert "8000" in made.kubectl("-n", "faces", "get", full_name, "-o", "wide").splitlines()[1]
    assert f"externalgroup.{api.partition('/')[0]}/face" in made.kubectl("-n", "faces", "get", "external", "-o", "name")
    made.kubectl("-n", "faces", "delete", full_name, "face")


def test_the_short_name_and_what_explain_says() -> None:
    made = cluster()
    assert "applied" in apply(group_object("face", api=GROUP_API))
    assert made.kubectl("-n", "faces", "get", "eg").splitlines()[1].startswith("face ")
    explain = ("explain", "--api-version=workload.meshexp.io/v1alpha1")
    assert "spiffeIDs" in made.kubectl(*explain, "externalgroup.spec.admission")
    assert "name of a TCP port" in " ".join(made.kubectl(*explain, "externalgroup.spec.probes.httpGet").split())
    assert "no description" not in made.kubectl(*explain, "externalgroup.spec").lower()
    # It would go before a group of the other kind with this name.
    made.kubectl("-n", "faces", "delete", "eg", "face")


@pytest.fixture
def without_the_compatible_kind() -> Iterator[None]:
    """As the chart leaves a cluster."""
    kubectl = cluster().kubectl
    kubectl("delete", "crd", COMPATIBLE_NAME)
    try:
        yield
    finally:
        kubectl("delete", "crd", COMPATIBLE_NAME, "--ignore-not-found")
        assert "created" in kubectl("create", f"--filename={COMPATIBLE}")
        kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", COMPATIBLE_NAME)


@pytest.mark.usefixtures("without_the_compatible_kind")
def test_the_compatible_kind_may_come_after_the_controller_and_go_again(site: Site) -> None:
    kubectl = site.cluster.kubectl
    conditions = "jsonpath={.items[*].status.conditions[*].status}"
    # Of the tests before: a group of our kind goes before one with its name, and nobody would delete their machines.
    for kind in ("externalgroups.workload.meshexp.io", "externalworkloads"):
        kubectl("-n", "faces", "delete", kind, "--all")
    replica = site.start("a")
    assert "created" in kubectl("create", f"--filename={COMPATIBLE}")
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", COMPATIBLE_NAME)
    apply(group_object(api=BUOYANT_GROUP_API))
    accepted = "jsonpath={.status.conditions[?(@.type=='Accepted')].status}"
    said = replica.log.read_text
    ours = ("-n", "faces", "get", "externalworkloads", "-l", "workload.meshexp.io/group", "-o")
    wait(lambda: kubectl("-n", "faces", "get", COMPATIBLE_NAME, "face", "-o", accepted) == "True", 60, lambda: said()[-2000:])
    site.fleet("a")("join", count=1)
    wait(lambda: kubectl(*ours, conditions) == "True")
    # With the definition its groups are deleted; the controller and the other kind's groups go on.
    kubectl("delete", "crd", COMPATIBLE_NAME)
    wait(lambda: kubectl(*ours, "name") == "", 60, lambda: said()[-2000:])
    site.group("face", template={"ports": [{"port": 8000}]})
    wait(lambda: kubectl("-n", "faces", "get", "externalgroups.workload.meshexp.io", "face", "-o", accepted) == "True", 60)
    # The machine comes back by itself.
    wait(lambda: kubectl(*ours, conditions) == "True")
    assert replica.process.poll() is None and len(replica.lines("controller ready")) == 1


@pytest.mark.usefixtures("without_the_compatible_kind")
def test_the_compatible_kind_is_installed_only_where_it_is_absent(site: Site) -> None:
    """One that another product left stays as it is, and its groups are served, poorer as they are."""
    name, kubectl = COMPATIBLE_NAME, site.cluster.kubectl
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    names = {"kind": "ExternalGroup", "plural": "externalgroups", "singular": "externalgroup"}
    foreign = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "another-product"}},
        "spec": {"group": name.partition(".")[2], "scope": "Namespaced", "names": names, "versions": [version]},
    }  # fmt: skip
    kubectl("apply", "--server-side", f"--filename={CRDS}")
    assert "NotFound" in kubectl("get", "crd", name, check=False)
    kubectl("create", "-f", "-", given=yaml.safe_dump(foreign))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", name)
    before = kubectl("get", "crd", name, "-o", "json")
    kubectl("apply", "--server-side", f"--filename={CRDS}")
    assert "already exists" in kubectl("create", f"--filename={COMPATIBLE}", check=False)
    assert kubectl("get", "crd", name, "-o", "json") == before
    site.start("a")
    apply(group_object(api=BUOYANT_GROUP_API))
    site.fleet("a")("join", count=1)
    conditions = "jsonpath={.items[*].status.conditions[*].status}"
    wait(lambda: kubectl("-n", "faces", "get", "externalworkloads", "-o", conditions) == "True")
    assert not site.replicas["a"].lines("status of the group not written")
