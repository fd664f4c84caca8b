"""The controller's pure parts: manifests, names, admission, rendering."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller import admission, naming, rendering
from controller.admission import RefusedError
from controller.answers import Answers
from controller.manifest import GROUP_API, group_from_object
from controller.model import Condition, Key, Status
from controller.rendering import Membership, Times
from harness.decode import encode
from harness.errors import ConfigError
from harness.messages import ClusterFacts, Reason, StateReport
from harness.probe import HttpGet, Probe
from harness.values import parse_address, parse_network, parse_spiffe_id
from tests.controller_support import TRUST_DOMAIN, group, group_object

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
labels = st.from_regex(LABEL, fullmatch=True)
instances = st.text(min_size=1, max_size=256)


def member(**changes: object) -> Membership:
    identity = parse_spiffe_id(f"spiffe://{TRUST_DOMAIN}/face")
    plain = Membership("faces", "face", "abcdefghij", 1, identity, (parse_address("192.0.2.1"),), "face-1", "0" * 64)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


# names


@given(labels, instances, st.integers(1, 10_000))
def test_names_are_dns_labels_and_stable(name: str, instance: str, generation: int) -> None:
    digest = naming.instance_digest(name, instance)
    made = naming.workload_name(name, digest, generation)
    assert LABEL.fullmatch(made)
    assert made == naming.workload_name(name, naming.instance_digest(name, instance), generation)
    assert made.startswith(name[:40].rstrip("-"))


@given(labels, labels, instances, instances)
def test_names_of_two_machines_or_groups_differ(one: str, two: str, first: str, second: str) -> None:
    made = {naming.workload_name(g, naming.instance_digest(g, i), 1) for g in {one, two} for i in {first, second}}
    assert len(made) == len({one, two}) * len({first, second})


@given(labels, labels)
def test_server_names_fit_a_dns_name(name: str, namespace: str) -> None:
    domain = "d" * naming.CLUSTER_DOMAIN_LENGTH
    assert len(naming.server_name(name, namespace, domain)) <= 253


# manifests


def test_the_playgrounds_manifests_are_taken_unchanged() -> None:
    folder = pathlib.Path(__file__).parents[2] / "deploy" / "playground"
    documents = [d for path in sorted(folder.rglob("*.yaml")) for d in yaml.safe_load_all(path.read_text())]
    groups = [group_from_object(d) for d in documents if d["kind"] == "ExternalGroup"]
    assert sorted(g.metadata.name for g in groups) == ["color", "face", "smiley", "smiley2"]
    assert {d["kind"] for d in documents} == {"Namespace", "ExternalGroup", "Service", "HTTPRoute"}
    face = next(g for g in groups if g.metadata.name == "face")
    assert face.probes == (Probe(HttpGet(8000, "127.0.0.1", "/ready"), failure_threshold=1, initial_delay_seconds=3.0),)
    assert face.spec.template.metadata.labels == {"service": "face"}


def test_probes_count_in_both_places_and_groups_survive_their_object_form() -> None:
    data = group_object(api=GROUP_API, admission={"spiffeIDs": ["spiffe://td/x-*"], "addressCIDRs": ["10.0.0.0/8"], "maximum": 3})
    data["spec"]["template"]["probes"] = [{"tcpSocket": {"port": 9000}}]
    data["spec"]["leaseSeconds"] = 5
    made = group_from_object(data)
    assert [bool(p.http_get) for p in made.probes] == [True, False]
    assert made.spec.admission.address_cidrs == (parse_network("10.0.0.0/8"),)
    assert group_from_object(made.to_object()) == made


def test_every_fault_of_a_manifest_at_once_with_its_path() -> None:
    data = group_object(leaseSeconds=0.1, admission={"spiffeIDs": ["spiffe://*/x", "nonsense"], "maximum": -1})
    data["spec"]["template"]["ports"] = [{"port": 8000}, {"port": 8000}, {"name": "Upper", "port": 1, "protocol": "SCTP"}]
    data["spec"]["template"]["metadata"]["labels"]["bad value"] = "x y"
    data["extra"] = 1
    data["metadata"]["name"] = "Face!"
    with pytest.raises(ConfigError) as caught:
        group_from_object(data)
    assert {fault.path for fault in caught.value.faults} == {
        "extra",
        "metadata.name",
        "spec.template.metadata.labels.bad value",
        "spec.template.ports[1].port",
        "spec.template.ports[2].name",
        "spec.template.ports[2].protocol",
        "spec.admission.spiffeIDs[0]",
        "spec.admission.spiffeIDs[1]",
        "spec.admission.maximum",
        "spec.leaseSeconds",
    }


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"spec": {"prober": []}}, "spec.prober"),
        ({"spec": {"probes": [{"httpGet": {"port": 0}}]}}, "spec.probes[0].httpGet.port"),
        ({"spec": {"probes": [{}]}}, "spec.probes[0]"),
        ({"metadata": {"name": "face"}}, "metadata.namespace"),
        ({"kind": "Externalgroup"}, "kind"),
        ({"apiVersion": "workload.buoyant.io/v1beta1"}, "apiVersion"),
    ],
)
def test_bad_manifests(change: dict[str, object], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        group_from_object(group_object() | change)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_an_api_server_may_know_more_than_we_do() -> None:
    data = group_object()
    data["spec"]["future"] = True
    data["metadata"]["managedFields"] = []
    assert group_from_object(data, lenient=True).spec == group().spec


# admission


@pytest.mark.parametrize("path", ["/face", "/faces/face"])
def test_default_admission(path: str) -> None:
    admission.check_identity(group(), parse_spiffe_id(f"spiffe://{TRUST_DOMAIN}{path}"), TRUST_DOMAIN)


@pytest.mark.parametrize(
    "identity",
    [
        f"spiffe://{TRUST_DOMAIN}/smiley",
        f"spiffe://{TRUST_DOMAIN}/face/x",
        f"spiffe://{TRUST_DOMAIN}/faces",
        f"spiffe://{TRUST_DOMAIN}/other/face",
        f"spiffe://{TRUST_DOMAIN}/xface",
        "spiffe://elsewhere/face",
    ],
)
def test_default_admission_refuses(identity: str) -> None:
    with pytest.raises(RefusedError) as caught:
        admission.check_identity(group(), parse_spiffe_id(identity), TRUST_DOMAIN)
    assert caught.value.code == "identity-not-allowed"


def test_a_group_cannot_admit_another_trust_domain() -> None:
    made = group(admission={"spiffeIDs": ["spiffe://elsewhere/face"]})
    with pytest.raises(RefusedError):
        admission.check_identity(made, parse_spiffe_id("spiffe://elsewhere/face"), TRUST_DOMAIN)


segments = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,10}", fullmatch=True)


@given(st.lists(segments, min_size=1, max_size=4), st.lists(segments, min_size=1, max_size=4))
def test_a_star_never_crosses_a_segment(pattern: list[str], path: list[str]) -> None:
    starred = [f"{segment[0]}*" for segment in pattern]
    made = group(admission={"spiffeIDs": ["spiffe://td/" + "/".join(starred)]})
    expected = len(path) == len(starred) and all(p[0] == s[0] for p, s in zip(path, starred, strict=True))
    try:
        admission.check_identity(made, parse_spiffe_id("spiffe://td/" + "/".join(path)), "td")
        admitted = True
    except RefusedError:
        admitted = False
    assert admitted == expected


def test_a_pattern_is_no_regular_expression() -> None:
    made = group(admission={"spiffeIDs": ["spiffe://td/a.c"]})
    with pytest.raises(RefusedError):
        admission.check_identity(made, parse_spiffe_id("spiffe://td/abc"), "td")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "169.254.1.1", "fe80::1", "::ffff:10.0.0.1", "10.9.0.1"]
)
def test_addresses_that_are_refused(address: str) -> None:
    made = group(admission={"addressCIDRs": ["10.0.0.0/16", "2001:db8::/32"]})
    with pytest.raises(RefusedError) as caught:
        admission.check_addresses(made, (parse_address(address),))
    assert caught.value.code == "address-not-allowed"


def test_addresses_that_are_admitted() -> None:
    made = group(admission={"addressCIDRs": ["10.0.0.0/16", "2001:db8::/32"]})
    admission.check_addresses(made, (parse_address("10.0.3.4"), parse_address("2001:db8::1")))


def test_versions_are_short_and_plain_or_left_out() -> None:
    said = {"harness": "0.1.0", "proxy": "edge-24.11.8", "bad name": "1", "evil": "a,b=c", "long": "x" * 65, "empty": ""}
    assert admission.versions_text(said) == "harness=0.1.0,proxy=edge-24.11.8"
    assert admission.versions_text({f"n{n}": "1" for n in range(100)}).count("=") == 8


def test_secrets() -> None:
    one, two = admission.new_secret(None), admission.new_secret("short")
    assert one != two and len(one) >= 43
    assert admission.new_secret(one) == one
    assert admission.is_secret(one, admission.hash_secret(one))
    assert not admission.is_secret(two, admission.hash_secret(one))
    assert not admission.is_secret(None, admission.hash_secret(one))
    assert not admission.is_secret("", "")


# rendering


def test_a_workload_has_what_linkerd_needs() -> None:
    made = rendering.workload(group(), member(), "cluster.local")
    assert made.metadata.name == "face-abcdefghij"
    assert made.metadata.labels == {"service": "face", "workload.meshexp.io/group": "face"}
    assert made.spec.mesh_tls.server_name == "face-abcdefghij.faces.external.cluster.local"
    assert [(str(ip), port) for ip, port in made.endpoints] == [("192.0.2.1", 8000)]
    assert made.metadata.owner_references[0].kind == "ExternalGroup"
    assert rendering.membership(made) == member()


def test_the_group_cannot_overwrite_our_marks() -> None:
    data = group_object()
    data["spec"]["template"]["metadata"]["annotations"] = {rendering.SECRET_HASH: "theirs"}
    made = rendering.workload(group_from_object(data), member(), "cluster.local")
    assert made.metadata.annotations[rendering.SECRET_HASH] == "0" * 64


def test_foreign_workloads_are_not_ours() -> None:
    made = rendering.workload(group(), member(), "cluster.local")
    foreign = dataclasses.replace(made, metadata=dataclasses.replace(made.metadata, annotations={}))
    assert rendering.membership(foreign) is None


def test_nothing_is_written_unless_something_differs() -> None:
    made = rendering.workload(group(), member(), "cluster.local")
    stored = dataclasses.replace(made, metadata=dataclasses.replace(made.metadata, uid="u", resource_version="7"))
    assert rendering.update(stored, made) is None
    moved = rendering.workload(group(), member(addresses=(parse_address("192.0.2.2"),)), "cluster.local")
    written = rendering.update(stored, moved)
    assert written is not None and written.metadata.uid == "u" and written.spec == moved.spec


def test_readiness_is_written_on_a_flip_only() -> None:
    made = rendering.workload(group(), member(), "cluster.local")
    assert rendering.with_readiness(made, False, "Starting", "", 0) is None
    up = rendering.with_readiness(made, True, "Ready", "", 0)
    assert up is not None
    assert up.status == Status((Condition("Ready", "True", "Ready", "", "1970-01-01T00:00:00Z"),))
    assert rendering.with_readiness(up, True, "Ready", "again", 9) is None
    down = rendering.with_readiness(up, False, "ProbeFailed", "x" * 5000, 9)
    assert down is not None and len(down.status.conditions[0].message) == 1024


def test_silence_stands_over_the_last_report() -> None:
    report = StateReport(1, True, Reason.READY)
    assert rendering.readiness(report, None) == (True, "Ready", "")
    assert rendering.readiness(report, 31.0) == (False, "Unreachable", "no report for 31 s")


def test_the_version_covers_all_but_the_secret() -> None:
    made = rendering.workload(group(), member(), "cluster.local")

    def version(facts: ClusterFacts = ClusterFacts(), secret: str | None = None, **spec: Any) -> str:  # noqa: B008
        return Answers().registration(group(**spec), made, facts, Times().of(group(**spec)), secret).version

    assert version() == version(secret="x")
    assert len({version(), version(leaseSeconds=7), version(probes=[]), version(facts=ClusterFacts(cluster_domain="x"))}) == 4


def test_a_registration_is_json() -> None:
    made = rendering.workload(group(), member(), "cluster.local")
    answers, face, facts = Answers(), group(), ClusterFacts()
    told = answers.registration(face, made, facts, Times(), "s")
    data = encode(told)
    assert json.loads(answers.body(face.key, told)) == data == json.loads(answers.body(Key("other", "group"), told))
    quiet = answers.registration(face, made, facts, Times())
    assert json.loads(answers.body(face.key, quiet)) == encode(quiet) and quiet.version == told.version
    assert data["template"]["labels"] == {"service": "face"} and data["secret"] == "s" and data["lease_seconds"] == "30s"
