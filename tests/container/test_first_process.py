"""The first process of a container: the workload as its child, signals, orphans, rights, and how it ends."""

from __future__ import annotations

import time

import pytest

from tests.container.images import FACES
from tests.container.playground import Playground
from tests.waiting import wait

CAPABILITIES = ("NET_ADMIN", "SETUID", "SETGID", "SETPCAP", "KILL")
_WORKLOAD = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines())
print("caps", status["CapBnd"], "uid", os.getuid(), "nnp", status["NoNewPrivs"], flush=True)
for _ in range(20):
    subprocess.run(["sh", "-c", "sleep 0.1 & exit"])
while True:
    time.sleep(0.1)
"""


@pytest.fixture
def hardened(playground: Playground) -> Playground:
    """smiley2-1 with a workload of our own, as little right as there may be, and a read-only root file system."""
    start_hardened(playground, CAPABILITIES, "python3", "-c", _WORKLOAD)
    return playground


def start_hardened(playground: Playground, capabilities: tuple[str, ...], *command: str) -> None:
    playground.engine.run("rm", "--force", "--volumes", "smiley2-1")
    flags = ("--cap-drop=ALL", "--read-only", *(f"--cap-add={name}" for name in capabilities))
    line = [word for word in playground.line("smiley2-1", "smiley2", flags=flags) if word != "--cap-add=NET_ADMIN"]
    line += ["--cap-add=NET_ADMIN"] if "NET_ADMIN" in capabilities else []
    playground.engine.do(*line, FACES, *command)


def exit_code(playground: Playground, name: str) -> int:
    return int(playground.engine.do("wait", name))


def test_the_workloads_exit_code_is_the_containers(hardened: Playground) -> None:
    """And its orphans are reaped, signals reach it, it has no rights, and the machine leaves the mesh."""
    engine, address = hardened.engine, hardened.address("smiley2-1")
    wait(lambda: "caps" in engine.run("logs", "smiley2-1")[1], why=lambda: hardened.story("smiley2-1"))
    assert "caps 0000000000000000" in engine.do("logs", "smiley2-1")
    assert "nnp 1" in engine.do("logs", "smiley2-1") and "uid 0 " not in engine.do("logs", "smiley2-1")
    wait(lambda: hardened.mesh.workloads().get(address) is not None)
    states = (
        "import pathlib; print([p.read_text().rpartition(')')[2].split()[0] for p in pathlib.Path('/proc').glob('[0-9]*/stat')])"
    )
    time.sleep(0.5)
    wait(lambda: "Z" not in hardened.inside("smiley2-1", "python3", "-c", states))
    engine.do("kill", "--signal=USR1", "smiley2-1")
    assert exit_code(hardened, "smiley2-1") == 7
    wait(lambda: hardened.mesh.workloads().get(address) is None)


def test_a_killed_daemon_is_started_again_and_the_workload_goes_on(hardened: Playground) -> None:
    engine = hardened.engine
    wait(lambda: "caps" in engine.run("logs", "smiley2-1")[1], why=lambda: hardened.story("smiley2-1"))
    find = 'pid=$(python3 -c \'import json; print(json.load(open("/run/meshexp/status.json"))["pid"])\'); kill -9 $pid; echo $pid'
    killed = hardened.inside("smiley2-1", "sh", "-c", find).strip()
    read = ("python3", "-c", "import json; print(json.load(open('/run/meshexp/status.json'))['pid'])")
    wait(lambda: hardened.engine.run("exec", "smiley2-1", *read)[1].strip() not in (killed, ""))
    assert engine.inspect("smiley2-1")["State"]["Running"]
    assert engine.do("logs", "smiley2-1").count("caps ") == 1
    assert hardened.stop("smiley2-1")[0] == 143


@pytest.mark.parametrize("missing", CAPABILITIES)
def test_each_capability_is_needed_and_named(playground: Playground, missing: str) -> None:
    start_hardened(playground, tuple(name for name in CAPABILITIES if name != missing))
    assert exit_code(playground, "smiley2-1") == 77
    assert f"missing CAP_{missing}" in playground.engine.do("logs", "smiley2-1")


def test_a_wrong_configuration_ends_the_container(playground: Playground) -> None:
    playground.start("smiley2-1", "smiley2", MESHEXP_LOG_LEVEL="loud")
    assert exit_code(playground, "smiley2-1") == 78
    assert "log.level" in playground.engine.do("logs", "smiley2-1")
