"""`kubectl meshexp`, called by the real kubectl on a real API server, with machines of a controller that runs."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from harness.decode import decode
from harness.invitation import Invitation
from tests.controller_support import TRUST_DOMAIN
from tests.kubernetes.test_cluster import config_map
from tests.kubernetes_build import kubectl, kubectl_environment
from tests.kubernetes_site import Site
from tests.kubernetes_support import ROOT, cluster
from tests.waiting import wait

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: pathlib.Path) -> Call:
    """As an installed package has it: the entry that pyproject.toml names, on PATH."""
    module, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["kubectl-meshexp"].partition(
        ":"
    )
    script = tmp_path / "bin" / "kubectl-meshexp"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(*words: str, kubeconfig: str = "") -> tuple[int, str, str]:
        environment.update(kubectl_environment(kubeconfig or cluster().kubeconfig(), tmp_path))
        done = subprocess.run(
            [kubectl(), "meshexp", *words], env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return run


def machines(call: Call, *words: str) -> dict[str, dict[str, Any]]:
    code, said, errors = call("get", "--output", "json", *words)
    assert code == 0, errors
    return {machine["hostname"]: machine for machine in json.loads(said)}


def test_get_shows_every_machine_and_how_it_is(site: Site, call: Call) -> None:
    assert call("get")[:2] == (0, "no machine has joined\n")
    site.group(template={"ports": [{"port": 8000}]}, leaseSeconds=4)
    site.start("a")
    fleet = site.fleet("a")
    fleet("join", count=3)
    fleet("flip", number=1, ready=False)
    fleet("silence", number=2)
    silent_since = time.time()
    wait(lambda: machines(call)["m2"]["reason"] == "Unreachable")
    wait(lambda: machines(call)["m0"]["versions"] != {})
    found = machines(call, "-n", "faces")
    one = found["m0"]
    assert one["identity"] == f"spiffe://{TRUST_DOMAIN}/face" and one["address"] == "10.128.0.0"
    assert (one["namespace"], one["group"], one["versions"]) == ("faces", "face", {"harness": "9.8.7"})
    assert {name: (m["ready"], m["reason"]) for name, m in found.items()} == {
        "m0": (True, "Ready"), "m1": (False, "ProbeFailed"), "m2": (False, "Unreachable"),
    }  # fmt: skip
    seen = {name: seconds_ago(machine["last_seen"]) for name, machine in found.items()}
    assert max(seen["m0"], seen["m1"]) < seen["m2"] and abs(seen["m2"] - (time.time() - silent_since)) < 60
    assert {name: machine["heard_by"] for name, machine in found.items()} == {"m0": "a", "m1": "a", "m2": ""}
    head, *rows = call("get")[1].splitlines()
    assert head.split() == ["NAMESPACE", "NAME", "GROUP", "IDENTITY", "ADDRESS", "VERSION", "READY", "REASON", "LAST", "SEEN"]
    assert len(rows) == 3 and all("9.8.7" in row for row in rows)
    assert machines(call, "-n", "linkerd") == {}


def seconds_ago(when: str) -> float:
    return time.time() - datetime.datetime.fromisoformat(when).timestamp()


def test_without_the_right_to_leases_the_rest_is_shown(site: Site, call: Call) -> None:
    site.group(template={"ports": [{"port": 8000}]})
    site.start("a")
    site.fleet("a")("join", count=1)
    cluster().kubectl("create", "clusterrole", "looker", "--verb=get,list", "--resource=externalworkloads.workload.linkerd.io")
    cluster().kubectl("create", "clusterrolebinding", "looker", "--clusterrole=looker", "--serviceaccount=meshexp:looker")
    try:
        kubeconfig = cluster().kubeconfig("looker", token=cluster().token("looker"))
        code, said, errors = call("get", "-o", "json", kubeconfig=kubeconfig)
    finally:
        cluster().kubectl("delete", "clusterrole,clusterrolebinding", "looker")
    (machine,) = json.loads(said)
    assert code == 0 and "leases" in errors and machine["ready"] and machine["last_seen"] == ""


def test_invite_is_the_same_command(site: Site, call: Call, tmp_path: pathlib.Path) -> None:
    site.group()
    config_map("linkerd-identity-trust-roots", **{"ca-bundle.crt": pathlib.Path(site.authority.anchors).read_text()})
    words = ("invite", "--group=face", "-n", "faces", "--spire-server=10.9.0.7:8081", "--join-token=abc")
    try:
        code, said, errors = call(*words)
    finally:
        cluster().kubectl("-n", "linkerd", "delete", "configmap", "linkerd-identity-trust-roots")
    assert code == 0, errors
    made = decode(Invitation, json.loads((tmp_path / "face.invitation").read_text()), source="invitation")
    assert made.agent is not None and made.token not in said
    code, said, errors = call(*words)
    assert code == 78 and "exists" in errors and "Traceback" not in errors
