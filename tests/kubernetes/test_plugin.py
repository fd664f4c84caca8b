"""`kubectl meshexp`, called by the real kubectl on a real API server, with machines of a controller that runs."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from controller.model import micro_time
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
    """As an installed package has it: the entry that pyproject.toml names, on PATH. `ahead`: seconds, of its machine's clock."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["kubectl-meshexp"].partition(":")
    script = tmp_path / "bin" / "kubectl-meshexp"
    script.parent.mkdir()
    clock = "import os, sys, time\nright = time.time\ntime.time = lambda: right() + float(os.environ['AHEAD'])\n"
    script.write_text(f"#!{sys.executable}\n{clock}from {module} import {function}\nsys.exit({function}())\n")
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(*words: str, kubeconfig: str = "", ahead: float = 0) -> tuple[int, str, str]:
        environment.update(kubectl_environment(kubeconfig or cluster().kubeconfig(), tmp_path))
        done = subprocess.run(
            [kubectl(), "meshexp", *words],
            env=environment | {"AHEAD": str(ahead)},
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def machines(call: Call, *words: str, **where: Any) -> dict[str, dict[str, Any]]:
    code, said, errors = call("get", "--output", "json", *words, **where)
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
    assert one["identity"] == f"spiffe://{TRUST_DOMAIN}/faces/face" and one["address"] == "10.128.0.0"
    assert (one["namespace"], one["group"], one["versions"]) == ("faces", "face", {"harness": "9.8.7"})
    assert {name: (m["ready"], m["reason"]) for name, m in found.items()} == {
        "m0": (True, "Ready"), "m1": (False, "ProbeFailed"), "m2": (False, "Unreachable"),
    }  # fmt: skip
    seen = {name: seconds_ago(machine["last_seen"]) for name, machine in found.items()}
    assert max(seen["m0"], seen["m1"]) < seen["m2"] and abs(seen["m2"] - (time.time() - silent_since)) < 60
    assert {name: machine["heard_by"] for name, machine in found.items()} == {"m0": "a", "m1": "a", "m2": ""}
    head, *rows = call("get")[1].splitlines()
    columns = ["NAMESPACE", "NAME", "HOSTNAME", "GROUP", "IDENTITY", "ADDRESS", "VERSION", "READY", "REASON", "LAST", "SEEN"]
    assert head.split() == columns
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
    assert code == 0 and "leases" in errors and machine["last_seen"] == ""
    assert machine["ready"] is None, "who may not see the replicas cannot tell"
    assert machine["message"].endswith("the ExternalWorkload still says Ready")


def test_it_is_unknown_whether_a_machine_is_ready_once_no_replica_hears_it(site: Site, call: Call) -> None:
    site.group(template={"ports": [{"port": 8000}]})
    site.start("a")
    vms = site.fleet("a")
    vms("join", count=2)
    wait(lambda: [one["ready"] for one in machines(call).values()] == [True, True])
    # The controller and the machines are gone at once: nobody writes to the ExternalWorkloads any more.
    site.kill("a")
    _make_older("replica.a", 60)
    found = machines(call)
    assert {one["ready"] for one in found.values()} == {None} and {one["heard_by"] for one in found.values()} == {""}
    assert all(50 < seconds_ago(one["last_seen"]) < 200 for one in found.values())
    shown = call("get")[1]
    assert shown.count(" Unknown ") == 2 and "no replica of the controller is alive" in shown
    conditions = "jsonpath={.items[*].status.conditions[*].status}"
    assert cluster().kubectl("-n", "faces", "get", "externalworkloads", "-o", conditions) == "True True", "as they were left"
    cluster().kubectl("-n", "meshexp", "delete", "lease", "replica.a")
    assert {one["ready"] for one in machines(call).values()} == {None}
    site.start("b")
    vms = site.fleet("b")
    vms("join", count=1)
    wait(lambda: True in [one["ready"] for one in machines(call).values()])


def _make_older(lease: str, seconds: float) -> None:
    """As it is when its replica has been gone for so long."""
    old = micro_time(time.time() - seconds)
    cluster().kubectl("-n", "meshexp", "patch", "lease", lease, "--type=merge", "-p", json.dumps({"spec": {"renewTime": old}}))


def test_the_readers_clock_does_not_matter(site: Site, call: Call) -> None:
    site.group(template={"ports": [{"port": 8000}]})
    site.start("a")
    site.fleet("a")("join", count=1)
    wait(lambda: machines(call)["m0"]["ready"] is True)
    found = machines(call, ahead=3600)["m0"]
    assert found["ready"] is True and found["heard_by"] == "a"
    (row,) = call("get", ahead=3600)[1].splitlines()[1:]
    assert re.search(r" \d{1,2} s ago$", row), row


def test_what_is_shown_can_be_chosen(site: Site, call: Call) -> None:
    site.group(template={"ports": [{"port": 8000}], "metadata": {"labels": {"service": "face"}}})
    site.start("a")
    site.fleet("a")("join", count=3)
    wait(lambda: len(machines(call)) == 3)
    everything = machines(call)
    name = everything["m1"]["name"]
    assert list(machines(call, name)) == list(machines(call, "m1")) == ["m1"]
    assert set(machines(call, "m0", everything["m2"]["name"], "-n", "faces")) == {"m0", "m2"}
    code, said, errors = call("get", "m1", "m9")
    assert code != 0 and said == "" and "'m9'" in errors and "Traceback" not in errors
    assert set(machines(call, "-A", "-n", "linkerd")) == set(everything)
    assert set(machines(call, "-l", "service=face")) == set(everything)
    assert machines(call, "-l", "service!=face") == {}
    assert call("get", "-l", "service=smiley")[:2] == (0, "no machine has these labels\n")
    code, said, errors = call("get", "-l", "a=b=c")
    assert code != 0 and "selector" in errors and "Traceback" not in errors
    head, *rows = call("get", "-o", "wide")[1].splitlines()
    assert head.split()[-3:] == ["SINCE", "HEARD", "BY"] and all(row.split()[-1] == "a" for row in rows)


def test_the_context_and_who_asks_can_be_chosen(site: Site, call: Call, two_contexts: str) -> None:
    site.group(template={"ports": [{"port": 8000}]})
    site.start("a")
    site.fleet("a")("join", count=1)
    wait(lambda: list(machines(call)) == ["m0"])
    code, said, errors = call("get", kubeconfig=two_contexts)
    assert code != 0 and said == "" and 'User "nobody"' in errors, errors
    assert list(machines(call, "--context=c", kubeconfig=two_contexts)) == ["m0"]
    code, said, errors = call("get", "--context=prod", kubeconfig=two_contexts)
    assert code == 78 and "there is no context 'prod'; there are: c, nobody" in errors and "Traceback" not in errors
    code, said, errors = call("get", "--as=nobody")
    assert code != 0 and 'User "nobody"' in errors
    assert list(machines(call, "--as=nobody", "--as-group=others", "--as-group=system:masters")) == ["m0"]
    code, said, errors = call("get", "--as-group=system:masters")
    assert code == 64 and "--as-group needs --as" in errors
    words = ("invite", "--group=face", "-n", "faces", "--spire-server=10.9.0.7:8081", "--join-token=abc")
    code, said, errors = call(*words, kubeconfig=two_contexts)
    assert code != 0 and 'User "nobody"' in errors


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
