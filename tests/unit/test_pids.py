"""A pid is believed and signalled only with the start of its process: another process may have it by now."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import join_start
from harness.paths import Paths
from harness.status import Phase
from harness.system import files, process, procfs, snapshot_reader
from tests.mesh import ROOT

SIGNALLED = {
    "harness/system/init.py",  # the first process of a container: its own children
    "harness/system/probe_exec.py",
    "harness/system/process.py",
    "harness/system/procfs.py",
    "harness/system/proxy_binary.py",
}
"""Where a signal goes to a child of our own, which keeps its pid until we have heard of its end, or after a look at its start."""


def test_signals_are_sent_in_one_place() -> None:
    found = set()
    for path in sorted((ROOT / "harness").rglob("*.py")):
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        if any(ast.unparse(call.func) in ("os.kill", "os.killpg") for call in calls):
            found.add(str(path.relative_to(ROOT)))
    assert found == SIGNALLED


@pytest.fixture(name="another")
def another_fixture() -> Iterator[procfs.Known]:
    """A process that any signal ends."""
    with subprocess.Popen(["sleep", "60"]) as started:
        yield procfs.Known(started.pid, process.start_time(started.pid))
        started.kill()


def test_only_the_process_that_was_meant_gets_a_signal(another: procfs.Known) -> None:
    assert another.started is not None
    for wrong in (another.started - 1, another.started + 1, None):
        assert not procfs.Known(another.pid, wrong).send(signal.SIGTERM)
    assert another.send(signal.SIGSTOP) and another.send(signal.SIGCONT), "it is still there"
    assert another.send(signal.SIGKILL)
    os.waitid(os.P_PID, another.pid, os.WEXITED | os.WNOWAIT)
    assert not procfs.Known(2**22 - 1, 1).send(signal.SIGTERM)


def test_the_holder_of_a_lock_is_known_by_its_start(tmp_path: Path, another: procfs.Known) -> None:
    where = Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run")
    assert join_start.running(where) is None
    with files.lock(where.lock):
        assert join_start.running(where) == procfs.own()
        assert files.holder(where.lock) == str(os.getpid())
        where.lock.write_text(f"{another.pid}\n")
        assert join_start.running(where) == another, "an earlier release writes its pid alone"
        where.lock.write_text(f"{another.pid} 7\n")
        (left,) = [join_start.running(where)]
        assert left is not None and not left.send(signal.SIGTERM)
    assert join_start.running(where) is None


def test_a_daemon_that_waited_is_not_the_process_that_has_its_pid_now(tmp_path: Path, another: procfs.Known) -> None:
    path = tmp_path / "status.json"
    said = {"phase": Phase.WAITING.text, "ready": False, "message": "…", "pid": another.pid, "conditions": []}
    path.write_text(json.dumps(said | {"pid_started": another.started}))
    assert snapshot_reader.read(path)["phase"] == Phase.WAITING.text
    assert another.started is not None
    path.write_text(json.dumps(said | {"pid_started": another.started - 1}))
    assert snapshot_reader.read(path)["phase"] == Phase.STOPPED.text
