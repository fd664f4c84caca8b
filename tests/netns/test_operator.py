"""What an operator asks a member for: its status by a stable schema, what differs, and where each setting is from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.status_fields import FIELDS
from tests.mesh import NODE, Mesh, mesh


@pytest.fixture(scope="module")
def vm() -> Iterator[Mesh]:
    with mesh() as found:
        found.group(probes=[{"tcpSocket": {"host": "127.0.0.1", "port": 4191}, "periodSeconds": 1}])
        found.start_controller()
        found.start_daemon()
        found.wait_ready()
        yield found


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Dotted, as in the documented schema; names that are any are written NAME or PART."""
    any_name = {"children": "NAME", "certificates": "NAME", "certificate_lifetimes": "NAME", "calls": "CALL"}
    any_name |= {f"counters.{kind}": "PART" for kind in ("changes", "repairs", "failures")}
    if isinstance(value, dict):
        for name, inner in value.items():
            word = any_name.get(path) or name
            yield from keys(inner, f"{path}.{word}" if path else word)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner, f"{path}[]")
    else:
        yield path


def test_the_status_is_what_is_documented(vm: Mesh) -> None:
    vm.wait(lambda: vm.status()["reported"] is not None)
    found = set(keys(json.loads(vm.meshexp("status", "-o", "json").stdout)))
    assert found - FIELDS.keys() == set(), "everything is documented"
    assert FIELDS.keys() - found <= {"counters.failures.PART", "counters.repairs.PART", "instances.NAME", "neighbours[]"}, (
        "everything documented is there"
    )


def test_one_screen(vm: Mesh) -> None:
    text = vm.meshexp("status").stdout
    assert text.startswith("Ready since ")
    assert re.search(r"^child proxy +running, for \d+ s, pid \d+$", text, re.MULTILINE)
    assert re.search(r"^certificates left +proxy 59 min, svid 59 min$", text, re.MULTILINE)
    assert re.search(r"^endpoints +10\.9\.0\.2:8000 \(http\)$", text, re.MULTILINE)
    assert re.search(r"^since the start +\d+ cycles?, \d+ changes?, 0 failures$", text, re.MULTILINE)
    assert len(text.splitlines()) < 24


def test_watching_says_each_change_once(vm: Mesh) -> None:
    argv = [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "status", "--watch", "-o", "json"]
    watching = subprocess.Popen(argv, env=vm.environment, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["reason"] == "Ready"
    assert vm.meshexp("cordon").returncode == 0
    reasons = {json.loads(watching.stdout.readline())["reason"] for _ in range(2)}
    assert "Cordoned" in reasons
    watching.kill()
    watching.wait()
    watching.stdout.close()
    assert vm.meshexp("uncordon").returncode == 0
    vm.wait_ready()


def test_the_difference_between_what_is_and_what_should_be(vm: Mesh) -> None:
    assert vm.meshexp("diff").stdout == "# no difference\n"
    vm.configure(network={"pod_cidrs": ["10.42.0.0/24", "10.42.1.0/24"]}, redirect={"ports": ["9000"]})
    done = vm.meshexp("diff")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert f"+ route 10.42.1.0/24 via {NODE}" in lines
    assert any(line.startswith("+") and "9000" in line for line in lines) and any(line.startswith("- ") for line in lines)
    vm.configure()
    assert vm.meshexp("diff").returncode == 0


def test_the_origin_of_each_value(vm: Mesh) -> None:
    drop_in = vm.folder / "etc/harness.d/10.yaml"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("drain: {deadline: 7s}\nproxy: {env: {LINKERD2_PROXY_LOG: debug}}\n")
    argv = [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "config", "show"]
    environment = {**vm.environment, "MESHEXP_LOG_LEVEL": "debug"}
    text = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout
    drop_in.unlink()
    assert re.search(rf'^  deadline: "7s" +# {drop_in}$', text, re.MULTILINE)
    assert re.search(rf"^  env: .*LINKERD2_PROXY_LOG.* +# {drop_in}$", text, re.MULTILINE)
    assert re.search(r'^  level: "debug" +# environment$', text, re.MULTILINE)
    assert re.search(rf'^  group: "face" +# {vm.folder}/etc/harness.yaml$', text, re.MULTILINE)
    assert re.search(r"^  inbound_port: 4143 +# default$", text, re.MULTILINE)
    assert yaml.safe_load(text)["identity"]["embedded"]["ca_key"].endswith("ca.key"), "it is YAML, to be used again"


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="here the journal is read: tests/package/test_unit.py")
def test_logs_without_a_journal(vm: Mesh) -> None:
    """From the file that a daemon writes to, and its children by it; without one they say where they are."""
    done = vm.meshexp("logs", "--lines=2")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 and done.stdout in vm.logs()
    following = vm.vm.start(sys.executable, "-s", "-m", "harness", "logs", "-f", "-n1", env=vm.environment)
    try:
        assert following.stdout is not None and following.stdout.readline() in vm.logs()
        vm.meshexp("cordon", "--reason", "to see it logged")
        assert "to see it logged" in next(line for line in following.stdout if "cordon" in line)
    finally:
        following.kill()
        following.wait()
        following.stdout.close() if following.stdout else None
    vm.meshexp("uncordon")
    argv = [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "logs"]
    nobody = {**vm.environment, "MESHEXP_RUN_DIR": f"{vm.folder}/none"}
    done = subprocess.run(argv, env=nobody, capture_output=True, text=True, check=False)
    assert done.returncode == 69 and "standard error" in done.stderr
