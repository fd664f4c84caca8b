"""Two workloads on one machine, by two real daemons in one network namespace, and a controller and endpoints in another."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import cluster, host_state
from harness.messages import PROXY_PORT
from tests import redirect_support as support
from tests.instances_lab import ADDRESS, APP, PORTS, SMILEY, USERS, Lab
from tests.mesh import ROOT, on_path
from tests.namespaces import namespace
from tests.spire_support import SPIRE

pytestmark = support.needs_root

REAL = "linkerd2-proxy"


def spiffe(name: str) -> str:
    return f"spiffe://{cluster.TRUST_DOMAIN}/{name}"


@pytest.fixture(params=["development proxy", REAL])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    real = on_path(REAL) if request.param == REAL else ""
    if real is None or (real and not SPIRE):
        pytest.skip(f"not on PATH, and in no registry: {REAL} or SPIRE")
    with tempfile.TemporaryDirectory(prefix="meshexp-test-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        with namespace() as vm, namespace() as node:
            made = Lab(folder, node, vm, real)
            proxy = folder / "development-proxy"
            proxy.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -s -m demo.proxy\n")
            proxy.chmod(0o755)
            made.configure("face", folder / "config", proxy={"user": "2102"})
            for app, port in PORTS.items():
                (folder / f"{app}.ready").touch()
                made.start(f"app-{app}", sys.executable, "-c", APP, app, str(port), str(folder / f"{app}.ready"))
            try:
                yield made
            finally:
                made.close()


def test_two_workloads_on_one_machine(lab: Lab) -> None:
    before = host_state.dump(lab.vm.enter)
    lab.start_daemon()
    lab.wait(lambda: lab.status().get("phase") == "Ready")
    _one_comes(lab)
    _each_is_known_as_itself(lab)
    if not lab.real:  # there is no destination controller here: tests/linkerd/test_instances.py has one
        _each_calls_as_itself(lab)
        _an_operator_sees_both(lab)
    _one_probe_fails(lab)
    _one_leaves(lab)
    lab.start_daemon(*SMILEY)
    lab.wait(lambda: lab.status(*SMILEY).get("phase") == "Ready")
    if lab.real:
        done = lab.meshexp("leave")
        assert [lab.processes[daemon].wait(60) for daemon in ("first", "smiley")] == [0, 0]
        lab.wait(lambda: lab.endpoints() == {})
    else:
        for daemon in ("first", "smiley"):
            lab.processes[daemon].kill()
            lab.processes[daemon].wait()
        done = lab.meshexp("cleanup")
    assert done.returncode == 0, done.stderr
    assert host_state.differences(before, host_state.dump(lab.vm.enter)) == []
    assert not (lab.folder / "run-smiley").exists()
    listening = lab.vm.run("ss", "-Hltn")
    assert not [line for line in listening.splitlines() if ":4143 " in line or ":4243 " in line], listening


def _one_comes(lab: Lab) -> None:
    alone = lab.vm.run("nft", "list", "table", "inet", "meshexp")
    lab.configure(
        "smiley", lab.folder / "config" / "instances" / "smiley",
        workload={"users": [str(USERS["smiley"])]},
        proxy={"user": "2202", "inbound_port": 4243, "outbound_port": 4240, "admin_port": 4291},
        metrics={"listen": "127.0.0.1:4292"},
    )  # fmt: skip
    lab.start_daemon(*SMILEY)
    lab.wait(lambda: lab.status(*SMILEY).get("phase") == lab.status().get("phase") == "Ready")
    lab.wait(lambda: lab.endpoints().keys() == PORTS.keys())
    assert "meta skuid 2301" not in alone
    lab.wait(lambda: "meta skuid 2301 return" in lab.vm.run("nft", "list", "table", "inet", "meshexp"))
    again = lab.meshexp(*SMILEY, "run")
    assert again.returncode == 75 and "another meshexp-harness runs here already" in again.stderr


def _each_is_known_as_itself(lab: Lab) -> None:
    found = lab.endpoints()
    for name in PORTS:
        assert lab.peer_sees(found[name]) == (spiffe(name), name)
    spires = {lab.status(*instance)["children"]["spire-server"]["pid"] for instance in ((), SMILEY)}
    assert (len(spires), None in spires) == ((2, False) if lab.real else (1, True))
    inbound = [[port["port"] for port in found[name]["spec"]["ports"] if port.get("name") == "linkerd-proxy"] for name in PORTS]
    assert inbound == [[], [4243]], f"the first has Linkerd's own, {PROXY_PORT}"


def _each_calls_as_itself(lab: Lab) -> None:
    """By the address of a Service whose endpoint is this very machine's other workload."""
    for caller, callee, admin in (("smiley", "face", 4191), ("face", "smiley", 4291)):
        assert lab.call(caller, cluster.cluster_ip(callee), 80) == callee
        seen = lab.proxy_metrics(admin, 'direction="inbound"', 'tls="true"', f'client_id="{spiffe(caller)}"')
        assert seen, lab.proxy_metrics(admin, "inbound")
        assert lab.call(caller, ADDRESS, PORTS[callee]) == callee, "an application dials its neighbour as before"


def _an_operator_sees_both(lab: Lab) -> None:
    told = lab.meshexp("status").stdout
    assert "others     smiley (Ready); `meshexp status --instance NAME`" in told
    routes = next(one for one in lab.status(*SMILEY)["conditions"] if one["name"] == "Routes")
    assert routes["message"].startswith("the first workload's: 2 routes in place"), routes
    for instance in ((), SMILEY):
        assert "# nothing to do" in lab.meshexp("plan", *instance).stdout
        shown = lab.meshexp("redirect", "show", *instance).stdout
        assert ("→ 4243" in shown, "→ 4143" in shown) == (bool(instance), not instance), shown
    tested = lab.meshexp(*SMILEY, "redirect", "test")
    assert tested.returncode == 0, tested.stdout
    found = json.loads(lab.meshexp("check", *SMILEY, "-o", "json").stdout)
    # Its own endpoints speak plain text here, and its anchor lasts a day; the stand-in tells no release.
    rest = [one for one in found["categories"] if one["categoryName"] not in ("meshexp-control-plane", "meshexp-identity")]
    assert {check["result"] for one in rest for check in one["checks"]} == {"success", "skipped"}, rest


def _one_probe_fails(lab: Lab) -> None:
    (lab.folder / "smiley.ready").unlink()
    lab.wait(lambda: lab.endpoints().keys() == {"face"})
    assert lab.status()["ready"]
    (lab.folder / "smiley.ready").touch()
    lab.wait(lambda: lab.endpoints().keys() == PORTS.keys())


def _one_leaves(lab: Lab) -> None:
    first = lab.vm.run("nft", "list", "table", "inet", "meshexp")
    routes, started = lab.vm.run("ip", "route"), lab.status()["children"]["proxy"]["pid"]
    left = lab.meshexp("leave", *SMILEY)
    assert left.returncode == 0, left.stderr
    assert lab.processes["smiley"].wait(60) == 0
    assert lab.endpoints().keys() == {"face"}
    assert "meshexp-smiley" not in lab.vm.run("nft", "list", "ruleset")
    assert lab.vm.run("nft", "list", "table", "inet", "meshexp") == first
    assert lab.vm.run("ip", "route") == routes
    assert lab.status()["children"]["proxy"]["pid"] == started
    assert lab.peer_sees(lab.endpoints()["face"]) == (spiffe("face"), "face")
