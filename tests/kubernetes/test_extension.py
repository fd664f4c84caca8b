"""`linkerd-meshexp`, as Linkerd's command calls it, on a real API server: what is wrong in the cluster, one thing at a time."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from tests.kubernetes_site import Site
from tests.kubernetes_support import ROOT, cluster
from tests.waiting import wait

CRDS = ROOT / "deploy" / "crds"
LINKERD = shutil.which("linkerd")
# What `linkerd check --wait 0` gives to each extension, by getExtensionCheckFlags in its cli/cmd/check.go.
LINKERDS_FLAGS = (
    "--as-group=[]",
    "--linkerd-namespace=linkerd",
    "--verbose=false",
    "--proxy=false",
    "--wait=0s",
    "--output=json",
)


def command(*words: str) -> list[str]:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["linkerd-meshexp"].partition(":")
    program = f"import sys; from {module} import {function}; sys.exit({function}())"
    return [sys.executable, "-c", program, *words]


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def named(*words: str, kubeconfig: str = "") -> dict[str, Any]:
    done = call("check", f"--kubeconfig={kubeconfig or cluster().kubeconfig()}", *LINKERDS_FLAGS, *words)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["success"] else 1)
    assert [category["categoryName"] for category in found["categories"]] == ["meshexp"]
    return {check["code"]: check for check in found["categories"][0]["checks"] if check["result"] != "success"}


def ready(replicas: int) -> None:
    """What a kubelet would have said of the Deployment."""
    status = json.dumps({"status": {"replicas": 2, "readyReplicas": replicas, "availableReplicas": replicas}})
    words = ("patch", "deployment", "meshexp-controller", "--subresource=status", "--type=merge", "-p", status)
    cluster().kubectl("-n", "meshexp", *words)


def test_linkerd_asks_who_it_is() -> None:
    assert json.loads(call("_extension-metadata").stdout) == {
        "name": "linkerd-meshexp", "checks": "always",
    }  # fmt: skip


def test_what_is_wrong_in_the_cluster_is_named(site: Site) -> None:
    site.group(template={"ports": [{"port": 8000}]})
    ready(1)
    site.start("a")
    assert named().keys() == {"controller-not-ready"}
    ready(2)
    wait(lambda: named() == {}, 20, lambda: str(named()))
    vms = site.fleet("a")
    vms("join", count=2)
    wait(lambda: named() == {}, 20, lambda: str(named()))
    vms("flip", number=1, ready=False)
    wait(lambda: "group-not-ready" in named(), 20, lambda: str(named()))
    found = named()["group-not-ready"]
    assert found["error"].startswith("faces/face: 1 ProbeFailed") and found["result"] == "warning"
    assert found["hint"] == "`meshexp explain group-not-ready`"
    assert "controller-not-ready" in named("--controller-namespace=elsewhere")


def test_an_operators_reason_shows_in_kubectl(site: Site) -> None:
    site.group(template={"ports": [{"port": 8000}]})
    site.start("a")
    vms = site.fleet("a")
    vms("join", count=2)
    vms("flip", number=1, ready=False, cordon="new disks")
    path = '{.items[*].status.conditions[?(@.reason=="Cordoned")].message}'
    kubectl = cluster().kubectl
    wait(lambda: kubectl("-n", "faces", "get", "externalworkloads", "-o", f"jsonpath={path}") == "new disks")
    wait(lambda: "1/2" in kubectl("-n", "faces", "get", "eg", "face"))
    plugin = "import sys; from controller.admin import main; sys.exit(main())"
    argv = [sys.executable, "-c", plugin, "get", f"--kubeconfig={cluster().kubeconfig()}"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "Cordoned: new disks" in shown


def test_linkerds_flags_are_honoured(site: Site, two_contexts: str) -> None:
    site.group(template={"ports": [{"port": 8000}]})
    ready(2)
    site.start("a")
    wait(lambda: named() == {}, 20, lambda: str(named()))
    refused = named(kubeconfig=two_contexts)
    assert refused.keys() == {"api-unreachable"} and 'User "nobody"' in refused["api-unreachable"]["error"]
    assert named("--context=c", kubeconfig=two_contexts) == {}
    wrong = named("--context=prod", kubeconfig=two_contexts)["api-unreachable"]["error"]
    assert "there is no context 'prod'; there are: c, nobody" in wrong
    assert 'User "nobody"' in named("--as=nobody")["api-unreachable"]["error"]
    assert named("--as=nobody", "--as-group=[others,system:masters]") == {}
    assert "--as-group needs --as" in named("--as-group=[system:masters]")["api-unreachable"]["error"]


@pytest.mark.skipif(LINKERD is None, reason="Linkerd's own command is not on PATH, and in no registry")
def test_linkerds_own_command_runs_it_in_the_same_context_and_as_the_same_user(
    site: Site, two_contexts: str, tmp_path: pathlib.Path
) -> None:
    site.group(template={"ports": [{"port": 8000}]})
    ready(2)
    site.start("a")
    program = tmp_path / "bin" / "linkerd-meshexp"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom controller.__main__ import linkerd\nlinkerd()\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"KUBECONFIG": two_contexts, "HOME": str(tmp_path)}

    def ours(*words: str) -> dict[str, Any]:
        """Our part of its output, which is one JSON object after the other."""
        argv = [str(LINKERD), "check", "--wait=30s", "-o", "json", *words]
        said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, env=environment).stdout
        assert '"categoryName": "meshexp"' in said, said
        return dict(json.loads(said[said.rindex("\n{") :] if "\n{" in said else said))

    assert ours("--context=c")["success"]
    assert ours("--context=c", "--as=nobody", "--as-group=others", "--as-group=system:masters")["success"]


def test_only_one_namespace_is_looked_at(site: Site) -> None:
    site.group("broken", probes=[{"tcpSocket": {"port": 1}}], admission={"spiffeIDs": ["spiffe://a/*"]})
    ready(2)
    site.start("a")
    site.fleet("a")
    condition = {
        "type": "Accepted",
        "status": "False",
        "reason": "Invalid",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    conditions = json.dumps({"status": {"conditions": [condition]}})
    words = ("patch", "externalgroups.workload.meshexp.io", "broken", "--subresource=status", "--type=merge", "-p", conditions)
    cluster().kubectl(
        "-n", "faces", "wait", "--for=condition=Accepted", "--timeout=30s", "externalgroups.workload.meshexp.io/broken"
    )
    site.kill("a")
    cluster().kubectl("-n", "faces", *words)
    assert "group-invalid" in named("--namespace=faces") and "group-invalid" in named()
    assert "group-invalid" not in named("--namespace=linkerd")


def test_it_waits_for_what_comes_by_itself(site: Site) -> None:
    site.group(template={"ports": [{"port": 8000}]})
    ready(1)
    site.start("a")
    process = start("check", f"--kubeconfig={cluster().kubeconfig()}", "--wait=5m0s")
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("waiting for at most ") and "the controller is ready in meshexp" in line
    ready(2)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "√ the controller is ready in meshexp" in said


def test_a_wait_that_was_not_long_enough_ends_as_it_is(site: Site) -> None:
    ready(1)
    assert named("--wait=2s").keys() >= {"controller-not-ready"}


def test_it_does_not_wait_for_what_nobody_has_installed_or_allowed(two_contexts: str, site: Site) -> None:
    """`linkerd check` hands over 5 minutes, also for a cluster that has no machines, and for who may not look."""
    ready(1)
    assert named("--wait=5m0s", kubeconfig=two_contexts).keys() == {"api-unreachable"}
    definition, kubectl = str(CRDS / "externalgroups.workload.meshexp.io.yaml"), cluster().kubectl
    kubectl("delete", "-f", definition)
    try:
        assert named("--wait=5m0s", "--controller-namespace=elsewhere").keys() >= {"crd-missing", "controller-not-ready"}
    finally:
        kubectl("apply", "--server-side", "-f", definition)
        kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", definition)


def test_flags_that_are_not_known() -> None:
    words = ("check", f"--kubeconfig={cluster().kubeconfig()}", "--contxt=prod", "--proxy=false")
    assert call(*words, "--output=json").stderr == ""
    for output in ("table", "short"):
        assert (
            call(*words, "-o", output).stderr == "linkerd meshexp: not known here, and passed over: --contxt=prod --proxy=false\n"
        )
    done = call("check", "--wait=soon")
    assert done.returncode == 64 and "'soon' is not a duration" in done.stderr


def test_machines_that_no_replica_hears(site: Site) -> None:
    site.group(template={"ports": [{"port": 8000}]})
    ready(2)
    site.start("a")
    site.fleet("a")("join", count=2)
    wait(lambda: named() == {}, 20, lambda: str(named()))
    site.kill("a")
    cluster().kubectl("-n", "meshexp", "delete", "lease", "replica.a")
    found = named()
    assert (
        found.keys() == {"machine-not-heard"} and found["machine-not-heard"]["error"].count("no replica of the controller") == 2
    )
    shown = call("check", f"--kubeconfig={cluster().kubeconfig()}").stdout
    assert "- the groups' machines are ready" in shown, "what the leader wrote last is no √"


def test_without_a_cluster(tmp_path: pathlib.Path) -> None:
    done = call("check", f"--kubeconfig={tmp_path}/none", "-o", "short")
    assert done.returncode == 1 and "× can query the Kubernetes API" in done.stdout and "Traceback" not in done.stderr
