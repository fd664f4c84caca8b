"""A folder of another workload that the unit's root may not read: this workload starts and goes on, and its status names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mesh import ENVIRONMENT, ROOT
from tests.snapshots import snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to another user")
PROGRAM = """
import asyncio, sys
from pathlib import Path
from harness.config import load, neighbours
from harness.daemon import machine, own_conditions
from harness.daemon.surroundings import Surroundings
from harness.known import Others, Progress
from harness.paths import Paths, configured, workloads
from tests import builders

folder = Path(sys.argv[1])
where = Paths(folder / "etc", folder / "state", folder / "run")
print("workloads", *(one.instance for one in configured(where)[1:]))
print("readable", *(one.instance for one in workloads(where).readable[1:]))
print("left alone", machine.left_alone(where, 2102))
config = load.load(where, {})
before = builders.machine(others=Others(proxies=(2402,)))
assert neighbours.stamp(where) == neighbours.stamp(where)
found, _ = asyncio.run(Surroundings(where, None).look_again(config, before))
print("address", *found.addresses)
print("proxies", *found.others.proxies)
for condition in own_conditions.added((), found, Progress(), reload_fault="", metrics_fault=None, anchors=None, bugs=()):
    print(condition.name, condition.truth.value, condition.problem.code, condition.message)
"""
FIRST = """
workload: {group: face, namespace: faces, addresses: [192.0.2.9]}
controller: {address: "192.0.2.1:8081"}
proxy: {user: "2102"}
"""
OTHER = """
workload: {group: NAME, namespace: faces, users: ["2N01"]}
proxy: {user: "2N02", inbound_port: 4N43, outbound_port: 4N40, admin_port: 4N91}
metrics: {listen: "127.0.0.1:4N92"}
"""
CLOSED = {
    "a folder": ("instances/blue", "instances/blue"),
    "its drop-ins": ("instances/blue/harness.d", "instances/blue/harness.d"),
    "its file": ("instances/blue/harness.yaml", "instances/blue/harness.yaml"),
    "the folder of all": ("instances", "instances"),
    "a folder that is no workload's": ("instances/.git", ""),
}
READABLE = {"instances": "readable", "instances/blue": "readable green"}


@pytest.mark.parametrize("closed", CLOSED)
def test_a_closed_folder_of_another_workload(tmp_path: Path, closed: str) -> None:
    name, named = CLOSED[closed]
    etc = tmp_path / "etc"
    for folder in ("state", "run", "etc/instances/.git", "etc/instances/blue/harness.d", "etc/instances/green"):
        (tmp_path / folder).mkdir(parents=True)
    (etc / "harness.yaml").write_text(FIRST)
    (etc / "instances/.git/harness.yaml").write_text("")
    (etc / "instances/blue/harness.yaml").write_text(OTHER.replace("NAME", "blue").replace("N", "2"))
    (etc / "instances/green/harness.yaml").write_text(OTHER.replace("NAME", "green").replace("N", "3"))
    blue = tmp_path / "run-blue"
    blue.mkdir()
    (blue / "harness.lock").touch()
    (blue / "status.json").write_text(json.dumps(snapshot() | {"neighbours": []}))
    os.chown(etc / name, 65534, 65534)
    (etc / name).chmod(0o700 if (etc / name).is_dir() else 0o600)
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
    argv = (*bare, sys.executable, "-s", "-c", PROGRAM, str(tmp_path))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, env=ENVIRONMENT, timeout=60)
    assert not done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert "address 192.0.2.9" in lines
    assert "blue" in lines[0], "it may run: what it tells in its run directory counts"
    assert "left alone False" in lines, "its rules do not know this one's proxy yet"
    assert ("green" in lines[0]) is (named != "instances"), "the others are known all the same"
    assert lines[1] == READABLE.get(named, "readable blue green"), "of the configuration files"
    said = [line for line in lines if line.startswith("Workloads True state-unreadable")]
    proxies = next(line for line in lines if line.startswith("proxies"))
    if named:
        assert len(said) == 1 and f"{etc / named} cannot be read: Permission denied" in said[0]
        assert "2402" in proxies, "what was known of it before stays"
    else:
        assert said == [] and proxies == "proxies 2202 2302"
