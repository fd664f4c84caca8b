"""`check` prints each result as it comes, also into a pipe; with `-o json` one document at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest

from tests import waiting
from tests.check import lab
from tests.mesh import Mesh


@pytest.fixture
def vm() -> Iterator[Mesh]:
    """Its destination service takes connections, and says nothing: a check waits for it."""
    with lab.machine() as found:
        found.processes["destination"].send_signal(signal.SIGSTOP)
        yield found


def started(vm: Mesh, *words: str, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[bytes]:
    argv = [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "check", "--pre", *words]
    return subprocess.Popen(argv, stdout=stdout, stderr=subprocess.DEVNULL, env={**vm.environment, "NO_COLOR": "1"})


def first_part(run: subprocess.Popen[bytes], descriptor: int) -> str:
    """What is printed while the check waits. It is held there, so that nothing is a matter of time."""
    found = b""
    while b"meshexp-network" not in found and (more := os.read(descriptor, 65536)):
        found += more
    run.send_signal(signal.SIGSTOP)
    assert run.poll() is None
    text = found.decode().replace("\r\n", "\n")
    assert "√ the configuration is right\n" in text
    assert "Status check results" not in text and "destination answers" not in text
    run.send_signal(signal.SIGCONT)
    return text


def test_into_a_pipe(vm: Mesh) -> None:
    run = started(vm)
    with run:
        assert run.stdout is not None
        text = first_part(run, run.stdout.fileno())
        text += run.stdout.read().decode()
    assert run.wait(60) == 1 and "× destination answers" in text and text.endswith("Status check results are × (5 skipped)\n")
    assert text.count("meshexp-machine\n") == 1


def test_on_a_terminal(vm: Mesh) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "wb") as terminal:
        run = started(vm, stdout=terminal)
    first_part(run, ours)
    run.kill()
    run.wait(60)
    os.close(ours)


def test_json_is_one_document(vm: Mesh) -> None:
    run = started(vm, "-o", "json")
    out, _ = run.communicate(timeout=60)
    assert json.loads(out)["success"] is False and run.returncode == 1


def test_while_it_waits_it_says_for_what(vm: Mesh) -> None:
    argv = [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "check", "--pre", "--wait", "60", "-o", "short"]
    run = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=vm.environment)
    assert run.stderr is not None and run.stdout is not None
    assert run.stderr.readline().startswith(b"not well yet: destination-unreachable; looking again for ")
    vm.processes["destination"].send_signal(signal.SIGCONT)
    out, _ = run.communicate(timeout=90)
    assert run.returncode == 0 and "×".encode() not in out and out.count(b"Status check results") == 1


def test_a_reader_that_has_gone_ends_it(vm: Mesh) -> None:
    run = started(vm)
    assert run.stdout is not None
    run.stdout.readline()
    run.stdout.close()
    waiting.wait(lambda: run.poll() is not None, 60, lambda: "it goes on without a reader")
    assert run.returncode == 141, "not all was looked at: that is no success"
