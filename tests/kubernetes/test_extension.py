"""`linkerd-meshexp`, as Linkerd's command calls it, on a real API server: what is wrong in the cluster, one thing at a time."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tomllib
from typing import Any

from tests.kubernetes_site import Site
from tests.kubernetes_support import ROOT, cluster
from tests.waiting import wait

# What `linkerd check` gives to each extension.
LINKERDS_FLAGS = ("--linkerd-namespace=linkerd", "--cni-namespace=linkerd-cni", "--output=json", "--wait=5m0s", "--proxy")


def call(*words: str) -> subprocess.CompletedProcess[str]:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["linkerd-meshexp"].partition(":")
    program = f"import sys; from {module} import {function}; sys.exit({function}())"
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )


def named(*words: str) -> dict[str, Any]:
    done = call("check", f"--kubeconfig={cluster().kubeconfig()}", *LINKERDS_FLAGS, *words)
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
    assert json.loads(call("_extension-metadata").stdout) == {"name": "meshexp", "checks": "always"}


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


def test_without_a_cluster(tmp_path: pathlib.Path) -> None:
    done = call("check", f"--kubeconfig={tmp_path}/none", "-o", "short")
    assert done.returncode == 1 and "× can query the Kubernetes API" in done.stdout and "Traceback" not in done.stderr
