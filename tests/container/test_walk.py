"""docs/playground.md, run to the letter: each verification where it fails and where it holds; a second run; and the way back.

In order: later tests stand on what earlier ones have left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container import engine
from tests.container.conftest import PROGRAMS
from tests.container.images import FACES
from tests.container.kubelet import NAMESPACE
from tests.container.walk_run import fails, holds, machines, story, walk
from tests.container.walk_site import GROUPS, Site, site
from tests.linkerd_lab_box import which
from tests.linkerd_lab_cluster import DNS
from tests.mesh import ROOT
from tests.waiting import wait


@pytest.fixture(scope="module")
def walking(programs: Path, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0 or engine.MISSING:
        pytest.skip(engine.WHY if engine.MISSING else "containers need root")
    folder = tmp_path_factory.mktemp("walk")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    with site(programs, PROGRAMS, kept, folder) as made:
        yield made
        if made.kubelet.fault is not None:
            raise made.kubelet.fault


@contextlib.contextmanager
def aside(path: Path) -> Iterator[None]:
    """Not there for a while."""
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    try:
        yield
    finally:
        if path.exists():
            path.unlink()
        kept.rename(path)


def section(heading: str) -> str:
    """Of the document, up to the next heading."""
    text = (ROOT / "docs/playground.md").read_text()
    start = text.index(f"\n{heading}")
    return text[start : text.index("\n## ", start + 1)]


def test_a_namespace_that_is_not_the_playgrounds_is_left_alone(walking: Site) -> None:
    walking.kubectl("create", "namespace", NAMESPACE)
    for words in ((), ("--existing", "teardown")):
        code, said = walk(walking, *words)
        assert code == 1 and story(said)["what"] == "the namespace faces is the playground's"
    assert walking.kubectl("get", "namespace", NAMESPACE, "-o", "jsonpath={.metadata.annotations}") == ""
    walking.kubectl("delete", "namespace", NAMESPACE)


def test_the_cluster(walking: Site) -> None:
    environment = walking.root / "mesh.env"
    environment.write_text("")
    assert fails(walking, "cluster")["expected"] == "a line NODE_IP=…"
    done = walking.run("cluster-env")
    assert done.returncode == 0, done.stdout
    environment.write_text(done.stdout)
    done = walking.run("verify", "cluster", PLAYGROUND_DNS=DNS, PLAYGROUND_NETWORK="no-such")
    assert done.returncode == 1 and story(done.stdout)["expected"] == "a docker network no-such"
    done = walking.run("verify", "cluster", PLAYGROUND_DNS="10.77.0.9", PLAYGROUND_TIMEOUT="3")
    assert done.returncode == 1 and "kubernetes.default.svc.cluster.local:" in story(done.stdout)["came back"]
    patch = '{"status": {"conditions": [{"type": "Ready", "status": "%s"}]}}'
    words = ("patch", "node", "lab", "--subresource=status", "--type=merge", "-p")
    walking.kubectl(*words, patch % "False")
    assert fails(walking, "cluster")["came back"] == "lab Ready=False"
    walking.kubectl(*words, patch % "True")
    assert holds(walking, "cluster").count("√") == 2


def test_linkerd(walking: Site) -> None:
    walking.linkerd(1, "linkerd-webhooks\n× proxy-injector webhook has valid cert\n    certificate has expired\n√ another")
    failure = fails(walking, "linkerd")
    assert "× proxy-injector webhook has valid cert\ncertificate has expired" in failure["came back"]
    walking.linkerd()
    with aside(walking.root / "certs/ca.crt"):
        shutil.copy(walking.mesh.cluster.pki / "kube.crt", walking.root / "certs/ca.crt")
        assert "has other certificates" in fails(walking, "linkerd")["came back"]
    assert holds(walking, "linkerd").count("√") == 2


def test_linkerds_own_command_finds_what_is_wrong(walking: Site) -> None:
    """This cluster has no injector."""
    if which("linkerd") is None or not walking.real:
        print("not all of Linkerd's programs are on PATH: a stand-in says what `linkerd check` would")
        return
    enter = f"nsenter --target {walking.mesh.cluster.node.pid} --net --"
    walking.program("linkerd", f'exec {enter} {which("linkerd")} "$@"')
    failure = fails(walking, "linkerd", seconds=5)
    assert "×" in failure["came back"] and failure["see"] == "linkerd check"
    walking.linkerd()


def test_the_controller(walking: Site) -> None:
    walking.kubelet.hold = frozenset({"meshexp-controller"})
    wait(lambda: walking.verify("controller", seconds=0)[0] == 1)
    assert "0 of 2 replicas available" in fails(walking, "controller")["came back"]
    walking.kubelet.hold = frozenset()
    holds(walking, "controller")


def test_an_unmeshed_faces_stops_the_walk(walking: Site) -> None:
    """The injector is out of order: nothing else would show it."""
    failure = fails(walking, "crd")
    assert "not found" in failure["came back"]
    walking.kubelet.inject = False
    code, said = walk(walking, "--timeout", "25")
    failure = story(said)
    assert code == 1 and failure["what"] == "every pod of Faces is meshed"
    assert "face-0 proxy= ready=" in failure["came back"].splitlines()
    assert 'The walk stopped at "The cluster, the images and the certificates"' in said
    assert "deployment.apps/face" in walking.kubectl("get", "deployments", "-n", NAMESPACE, "-o", "name")
    for what in ("crd", "groups"):
        holds(walking, what)
    walking.kubelet.inject = True


def test_color_stays_until_color_1_is_ready(walking: Site) -> None:
    """By the document's part about color, in what the walk before has left."""
    document = walking.root / "docs/playground.md"
    # A workload that serves nothing.
    with aside(document), walking.docker('case "$*" in *--name=color-1*) set -- "$@" sleep 3600 ;; esac'):
        document.write_text(section("## color: ") + section("## A canary"))
        code, said = walk(walking, "--existing", "--timeout", "25")
    failure = story(said)
    assert code == 1 and failure["what"] == "color-1 is Ready" and "× Application" in failure["came back"], failure
    assert int(failure["for"].removesuffix(" s")) >= 25 and "docker logs color-1" in failure["see"]
    (heading,) = (line for line in (ROOT / "docs/playground.md").read_text().splitlines() if line.startswith("## color: "))
    assert f'The walk stopped at "{heading.removeprefix("## ")}"' in said
    replicas = walking.kubectl("get", "deployment", "color", "-n", NAMESPACE, "-o", "jsonpath={.spec.replicas}")
    assert replicas == "1"
    assert machines(walking) == ["color-1"]


def test_what_a_walk_has_left_is_removed(walking: Site) -> None:
    code, said = walk(walking, "--existing", "teardown")
    assert code == 0 and "the controller stays: it was there before" in said and "Linkerd stays: it was there before" in said
    kinds = walking.kubectl("get", "crd", "-o", "name")
    assert GROUPS not in kinds
    assert "externalgroups.workload.meshexp.io" in kinds and "externalworkloads.workload.linkerd.io" in kinds
    assert NAMESPACE not in walking.kubectl("get", "namespaces", "-o", "name")
    assert not (walking.root / "mesh.env").exists()
    code, said = walk(walking, "--existing", "teardown")
    assert code == 0 and "nothing to remove" in said


def test_run_again_it_comes_to_its_end(walking: Site) -> None:
    """In a cluster that is there, where a machine was created and not started, and helm was killed in its work."""
    walking.kubectl("apply", "-f", str(walking.root / "deploy/playground/namespace.yaml"))
    walking.engine.do("create", "--name=face-1", FACES)
    walking.kubelet.hold = frozenset({"face"})
    chart = ("upgrade", "--install", "faces", str(walking.root / "faces-chart"), "-n", NAMESPACE, "--wait")
    with subprocess.Popen([str(walking.bin / "helm"), *chart], env=walking.environment, stdout=subprocess.DEVNULL) as helm:
        wait(lambda: "STATUS: pending" in walking.shell("helm", "status", "faces", "-n", NAMESPACE).stdout)
        helm.kill()
    walking.kubelet.hold = frozenset()
    code, said = walk(walking, "--existing", "--context", "lab", "--timeout", "120", by="dash")
    assert code == 0 and "All that docs/playground.md says is so" in said
    assert "√ face-1 has left" in said and 'release "faces" uninstalled' in said
    assert sorted(machines(walking)) == ["color-1", "face-1", "smiley-1", "smiley2-1"]
    assert "k3d" not in "".join(line for line in said.splitlines() if line.startswith("+"))


def test_what_the_page_shows(walking: Site) -> None:
    (walking.root / "docs/other").write_text("not the page\n")
    assert "HeartEyes on green" in fails(walking, "page", "color=blue", seconds=0)["came back"]
    for wrong in (
        "face=none",
        "smiley=Cursing",
        "color=blue+green",
        "pod=face-docker-ext1+face-docker-ext2",
        "share=HeartEyes:5",
    ):
        fails(walking, "page", wrong, seconds=0)
    holds(walking, "page", "color=green", "errors=none", "pod=face-docker-ext1")
    holds(walking, "url", "http://localhost/")
    assert "not the page" in fails(walking, "url", f"file://{walking.root}/docs/other")["came back"]


def pauses(site: Site, name: str) -> bool:
    """False when the kernel could not freeze a process at this moment. Docker has left the container as it was then."""
    code, output = site.engine.run("pause", name)
    assert code == 0 or "unable to freeze" in output, output
    return code == 0


def test_a_machine(walking: Site) -> None:
    holds(walking, "machine", "face-1", "face")
    assert "color" in fails(walking, "machine", "face-1", "color")["what"]
    wait(lambda: pauses(walking, "smiley2-1"))
    assert fails(walking, "machine", "smiley2-1", "smiley2")["came back"].startswith("the container is paused")
    walking.engine.do("unpause", "smiley2-1")
    assert "there is no container face-2" in fails(walking, "machine", "face-2", "face")["came back"]


def test_pods_and_routes_and_groups(walking: Site) -> None:
    assert "pod/faces-gui-0" in fails(walking, "no-pods", "faces-gui")["came back"]
    holds(walking, "no-pods", "color")
    manifests = walking.root / "deploy/playground"
    replace = ("-n", NAMESPACE, "--type=json", "-p")
    walking.kubectl(
        "patch",
        "httproute",
        "smiley-route",
        *replace,
        '[{"op": "replace", "path": "/spec/parentRefs/0/name", "value": "nobody"}]',
    )
    wait(lambda: walking.verify("route", seconds=0)[0] == 1)
    assert fails(walking, "route")["came back"].startswith("False")
    walking.kubectl("apply", "-f", str(manifests / "route/smiley-route.yaml"))
    holds(walking, "route")
    label = "/spec/template/metadata/labels/no key"
    walking.kubectl("patch", GROUPS, "color", *replace, json.dumps([{"op": "add", "path": label, "value": "any"}]))
    wait(lambda: walking.verify("groups", seconds=0)[0] == 1)
    assert fails(walking, "groups")["came back"].startswith("color: False")
    walking.kubectl("patch", GROUPS, "color", *replace, json.dumps([{"op": "remove", "path": label}]))
    holds(walking, "groups")


def test_lost_requests_are_told(walking: Site) -> None:
    """face-2 is killed where `docker stop` should let it leave."""
    printed = walking.run("walk", "--print", "--existing", "--no-images").stdout.splitlines()
    (line,) = (line.removeprefix("+ ") for line in printed if "--name=face-2" in line)
    done = walking.shell("sh", "-c", line)
    assert done.returncode == 0, done.stdout
    holds(walking, "machine", "face-2", "face")
    with walking.docker('case "$1" in stop) shift; set -- kill "$@" ;; esac'):
        failure = fails(walking, "leaves", "face-2", "face-1")
    assert "no request is lost" in failure["what"]


def test_what_others_use_stays(walking: Site) -> None:
    """And is named; everything else goes, the machines by `docker stop`."""
    manifest = (walking.root / "deploy/playground/face.yaml").read_text().replace(f"namespace: {NAMESPACE}", "namespace: default")
    walking.mesh.cluster.kubectl("apply", "-f", "-", given=manifest)
    code, said = walk(walking, "--existing", "teardown", by="dash")
    assert code == 0 and f"the kind {GROUPS} stays: somebody else uses it (such as default/face" in said
    assert walking.kubectl("get", GROUPS, "-n", "default", "-o", "name").strip().endswith("/face")
    assert machines(walking) == []
    assert NAMESPACE not in walking.kubectl("get", "namespaces", "-o", "name")
    left = walking.kubectl("get", "externalworkloads", "-A", "-o", "name")
    assert left == ""
    walking.kubectl("delete", "crd", GROUPS)
    code, said = walk(walking, "teardown")
    assert code == 0 and "+ k3d cluster delete mesh-exp" in said
    assert "the docker network mesh-exp stays: k3d has not made it" in said
