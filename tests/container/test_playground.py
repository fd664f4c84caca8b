"""The playground in containers, on a real engine: the scenarios, in their order; later ones stand on earlier ones."""

from __future__ import annotations

import json
import sys
import time
from functools import partial

import pytest
import yaml

from tests import linkerd_lab_pki as pki
from tests.container.color_pod import color_pod
from tests.container.playground import MANIFESTS, NAMESPACE, Playground, shares
from tests.linkerd_lab_cluster import NODE, TRUST_DOMAIN
from tests.linkerd_lab_vm import ENVIRONMENT
from tests.waiting import wait

FACE, SMILEY, COLOR = (f"{name}.{NAMESPACE}.svc.cluster.local" for name in ("face", "smiley", "color"))
GRINNING, HEART_EYES, BLUE, GREEN = "&#x1F603;", "&#x1F60D;", "#66CCEE", "#228833"
REAL = "needs Linkerd's programs on PATH"


def identity(group: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/{NAMESPACE}/{group}"


def test_calls_are_answered_and_go_by_mutual_tls(faces: Playground) -> None:
    answers = faces.call(FACE, 20)
    assert all(a.good and (a.smiley, a.color) == (GRINNING, BLUE) for a in answers), answers[:3]
    for name in ("smiley", "color"):
        assert faces.metrics("face-1", 'direction="outbound"', 'tls="true"', f'server_id="{identity(name)}"') > 0
        assert faces.metrics(f"{name}-1", 'direction="inbound"', 'tls="true"', f'client_id="{identity("face")}"') > 0
    port = f'target_addr="{faces.address("smiley-1")}:8000"'
    assert faces.metrics("smiley-1", 'direction="inbound"', 'tls="no_identity"', port) == 0


def test_the_key_of_a_root_works_and_is_warned_of(faces: Playground) -> None:
    if faces.real:
        assert "ca.key is the key of the mesh's own trust anchor" in faces.engine.do("logs", "face-1")
    states = {name: faces.engine.inspect(name)["State"] for name in ("face-1", "smiley-1")}
    wait(lambda: all(faces.engine.inspect(n)["State"]["Health"]["Status"] == "healthy" for n in states), every=0.5)


def test_a_second_face_joins_by_an_intermediate_and_is_balanced_over_and_leaves_without_a_lost_request(faces: Playground) -> None:
    if faces.real:  # the embedded stand-in for SPIRE signs under any CA
        certs = pki.for_machine(faces.mesh.cluster.folder / "face-2-ca", faces.mesh.cluster.pki / "ta", "face-2")
    else:
        certs = faces.certs
    faces.join("face-2", "face", certs=certs, DELAY_BUCKETS="0,10,20")
    if faces.real:
        assert "warning: ca.key" not in faces.engine.do("logs", "face-2")
    address = faces.address("face-2")

    def balanced() -> bool:
        by = shares(faces.call(FACE, 40), "pod")
        return set(by) == {"face-docker-ext1", "face-docker-ext2"} and min(by.values()) >= 8

    wait(balanced, why=lambda: str(shares(faces.call(FACE, 40), "pod")), every=0.1)
    with faces.calling(FACE, 10.0) as answers:
        time.sleep(3)
        code = faces.stop("face-2")[0]
    assert [a for a in answers if not a.good] == [] and len(answers) > 20
    assert shares(answers, "pod")["face-docker-ext2"] > 3
    assert code == 0, "it ended by itself; `container.stop_seconds` of the figures is below Docker's 10 s"
    assert address not in faces.mesh.workloads()


def test_an_invitation_is_all_that_a_container_needs(faces: Playground) -> None:
    """Neither a key of the mesh nor a variable: group, routes, controller and identity are in the file."""
    if not faces.real:
        pytest.skip(f"{REAL}: an invitation carries an intermediate for SPIRE")
    cluster, certs = faces.mesh.cluster, faces.mesh.cluster.folder / "invited"
    certs.mkdir()
    cluster.node.do(
        sys.executable, "-s", "-m", "controller", "invite", "--group=smiley2", f"--namespace={NAMESPACE}", f"--ca={faces.certs}",
        f"--controller={NODE}:8081", f"--kubeconfig={cluster.folder}/admin.kubeconfig", f"--output={certs}/smiley2.invitation",
        env=ENVIRONMENT,
    )  # fmt: skip
    nothing = dict.fromkeys(("WORKLOAD_NAME", "WORKLOAD_NAMESPACE", "NODE_IP", "POD_CIDR", "SVC_CIDR"), "")
    faces.join("smiley2-1", "smiley2", certs=certs, FACES_SERVICE="smiley", SMILEY="HeartEyes", **nothing)
    assert "warning" not in faces.engine.do("logs", "smiley2-1").splitlines()[1]
    assert {a.smiley for a in faces.call(f"smiley2.{NAMESPACE}.svc.cluster.local", 5)} == {HEART_EYES}
    faces.stop("smiley2-1")


def test_color_goes_from_pod_to_machine(faces: Playground) -> None:
    if not faces.real:
        pytest.skip(f"{REAL}: an ordinary Pod beside machines is up to its destination controller")
    faces.stop("color-1")
    with color_pod(faces.mesh.cluster) as pod:
        wait(lambda: set(shares(faces.call(FACE, 8), "color")) == {BLUE}, why=lambda: str(faces.call(FACE, 2)))
        faces.join("color-1", "color", COLOR="green", DELAY_BUCKETS="0,10,20")
        wait(lambda: set(shares(faces.call(FACE, 40), "color")) == {BLUE, GREEN}, why=lambda: str(faces.call(FACE, 4)))
        with faces.calling(FACE, 6.0) as answers:
            time.sleep(1.0)
            pod.scale_to_zero()
        assert [a for a in answers if not a.good] == []
        wait(lambda: set(shares(faces.call(FACE, 20), "color")) == {GREEN})  # the process ends after all have heard of it
    assert set(shares(faces.call(FACE, 20), "color")) == {GREEN}


def gets(faces: Playground, p: float) -> bool:
    """Whether that share of the smileys are the canary's."""
    found = shares(faces.call(FACE, 400), "smiley")
    print(found)
    return set(found) == {GRINNING, HEART_EYES} and abs(found[HEART_EYES] / 400 - p) < 4.5 * (p * (1 - p) / 400) ** 0.5


def test_a_canary_by_weights(faces: Playground) -> None:
    """At 400 requests the share of a weight p is within 4.5 standard deviations of p."""
    if not faces.real:
        pytest.skip(f"{REAL}: HTTPRoutes are up to its policy controller")
    faces.join("smiley2-1", "smiley2", FACES_SERVICE="smiley", SMILEY="HeartEyes")
    assert set(shares(faces.call(FACE, 20), "smiley")) == {GRINNING}
    route = yaml.safe_load((MANIFESTS / "route" / "smiley-route.yaml").read_text())
    for weight in (20, 50):
        for backend, share in zip(route["spec"]["rules"][0]["backendRefs"], (100 - weight, weight), strict=True):
            backend["weight"] = share
        faces.mesh.cluster.apply(route)
        wait(partial(gets, faces, weight / 100), share=1.0)
    faces.mesh.cluster.kubectl("delete", "httproute", "smiley-route", "-n", NAMESPACE)
    wait(lambda: set(shares(faces.call(FACE, 20), "smiley")) == {GRINNING})


def test_who_may_call_a_machine_is_a_policy(faces: Playground) -> None:
    if not faces.real:
        pytest.skip(f"{REAL}: Servers are up to its policy controller")
    server = {
        "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
        "metadata": {"name": "smiley", "namespace": NAMESPACE},
        "spec": {"externalWorkloadSelector": {"matchLabels": {"service": "smiley"}}, "port": "http", "accessPolicy": "deny"},
    }  # fmt: skip
    authentication = {
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "MeshTLSAuthentication",
        "metadata": {"name": "face", "namespace": NAMESPACE}, "spec": {"identities": [identity("face")]},
    }  # fmt: skip
    policy = {
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "smiley", "namespace": NAMESPACE},
        "spec": {
            "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "smiley"},
            "requiredAuthenticationRefs": [
                {"group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": "face"}
            ],
        },
    }  # fmt: skip
    cluster = faces.mesh.cluster
    cluster.apply(server)
    try:
        refused = f"smiley: {SMILEY} answered 403"
        wait(lambda: [a.errors for a in faces.call(FACE, 3)] == [[refused]] * 3, why=lambda: str(faces.call(FACE)))
        cluster.apply(authentication, policy)
        wait(lambda: all(a.good for a in faces.call(FACE, 10)), why=lambda: str(faces.call(FACE)))
        # Only face: the page's own machine is none of those.
        assert {a.status for a in faces.call(SMILEY, 5)} == {403}
    finally:
        cluster.kubectl("delete", "-n", NAMESPACE, "server/smiley", "meshtlsauthentication/face", "authorizationpolicy/smiley",
                        "--ignore-not-found")  # fmt: skip


def test_what_an_operator_sees(faces: Playground) -> None:
    names = {w["metadata"]["labels"]["service"]: w for w in faces.mesh.workloads().values()}
    assert {"face", "smiley", "color", "gui"} <= set(names)
    assert faces.mesh.endpoints("face") == {faces.address("face-1"): True}
    assert json.loads(faces.inside("face-1", "meshexp", "status", "-o", "json"))["ready"] is True
