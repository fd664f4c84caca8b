"""Files that the daemon keeps for itself, in every way in which they can be wrong: it starts, or names what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_support import vm_fixture  # noqa: F401
from tests.mesh import Mesh
from tests.netns.test_after_a_crash import fill, small

KEPT = (
    "state/instance-id",
    "state/registration.json",
    "state/cordon.json",
    "state/configuration.json",
    "run/registration.json",
    "run/status.json",
    "run/proxy.json",
    "run/bug.json",
    "run/dnsmasq.conf",
    "run/redirect.lock",
    "run/harness.lock",
    "run/children/proxy.json",
    "run/children/workload-api.json",
)
LEFT_OUT = {
    "a pipe": "run/status.json",  # it would hold up the test; the readers of the status have one of their own
    "a link to nothing": "run/harness.lock",  # there is no lock then: as with a folder in its place
}
UNUSED = ("run/bug.json", "run/dnsmasq.conf", "run/redirect.lock")
"""Of these nothing is read or written here after a crash: there was no bug, there are no names, and the rules are in place."""


def truncate(path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    path.write_bytes(content[: len(content) // 2])


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return put


def somebody_elses(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.chown(path, 65534, 65534)
        path.chmod(0)


WAYS: dict[str, Callable[[Path], None]] = {
    "empty": replaced(lambda path: path.touch()),
    "cut short": truncate,
    "bytes": replaced(lambda path: path.write_bytes(bytes(range(256)))),
    "other JSON": replaced(lambda path: path.write_text('[{"name": 1}]')),
    "values of other kinds": replaced(lambda path: path.write_text('{"pid": [], "secret": {}, "name": 7, "grace": "x"}')),
    "a pipe": replaced(lambda path: os.mkfifo(path)),
    "somebody else's": somebody_elses,
    "a link to nothing": replaced(lambda path: path.symlink_to("/nonexistent/x")),
}


def member(vm: Mesh) -> None:
    vm.start_controller(lease="15s")
    vm.start_daemon()
    vm.wait_ready()


def spoil(vm: Mesh, how: Callable[[Path], object], names: tuple[str, ...]) -> None:
    for name in names:
        path = vm.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        how(path)


def log(vm: Mesh) -> str:
    return (vm.folder / "harness.log").read_text()


def verbs_answer(vm: Mesh) -> None:
    for words in (("status",), ("status", "-o", "json"), ("plan",), ("check",)):
        done = vm.meshexp(*words)
        assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_a_member_is_one_again_whatever_its_files_hold(vm: Mesh, way: str) -> None:
    """All of them at once, after a crash. A cordon that cannot be read stays one, until an operator ends it."""
    member(vm)
    vm.stop("harness", signal.SIGKILL)
    spoil(vm, WAYS[way], tuple(name for name in KEPT if name != LEFT_OUT.get(way)))
    cordoned = (vm.folder / "state/cordon.json").exists()
    verbs_answer(vm)
    daemon = vm.start_daemon()
    vm.wait(lambda: vm.status().get("pid") == daemon.pid and (vm.status().get("reported") or {}).get("decided", True))
    vm.wait(lambda: vm.condition("Redirected").get("status") == "True")
    if cordoned:
        assert vm.condition("Cordoned")["message"]
        assert vm.meshexp("uncordon").returncode == 0
    vm.wait_ready()
    assert "Traceback" not in log(vm), log(vm)
    assert vm.stop("harness") == 0
    assert "Traceback" not in log(vm), log(vm)


@pytest.fixture(name="kept")
def kept_fixture(vm: Mesh) -> Iterator[Mesh]:
    """Its state is on a file system of its own: it outlives the machine also where the test runs in a container."""
    with small(vm.folder / "state"):
        yield vm


@pytest.mark.parametrize("name", KEPT)
def test_a_folder_in_the_place_of_a_file_is_named(kept: Mesh, name: str) -> None:
    """What is in it may be somebody's, so it is not removed."""
    vm = kept
    member(vm)
    vm.stop("harness", signal.SIGKILL)
    spoil(vm, replaced(lambda path: (path / "something").mkdir(parents=True)), (name,))
    verbs_answer(vm)
    daemon = vm.start_daemon()
    path = str(vm.folder / name)
    if name == "run/harness.lock":
        assert daemon.wait(60) == 69, "nobody can tell whether another one runs"
        assert f"{path} cannot be opened: Is a directory" in log(vm)
        return
    if name == "run/status.json":
        vm.wait(lambda: f"{path} cannot be written: Is a directory" in log(vm))
        assert f"{path} cannot be read: Is a directory" in vm.meshexp("status").stdout
    elif name == "state/configuration.json":
        vm.wait(lambda: f"{path} cannot be written" in log(vm))
    elif name == "state/cordon.json":
        vm.wait(lambda: f"the reason in {path} cannot be read" in vm.condition("Cordoned").get("message", ""))
        done = vm.meshexp("uncordon")
        assert done.returncode == 69 and f"{path} cannot be removed: Is a directory" in done.stderr
    elif name in UNUSED:
        vm.wait(lambda: vm.status().get("pid") == daemon.pid)
        vm.wait_ready()
    else:
        vm.wait(lambda: vm.status().get("pid") == daemon.pid and named(vm, path))
    assert "Traceback" not in log(vm), log(vm)
    assert daemon.poll() is None


def named(vm: Mesh, path: str) -> bool:
    """Whether a condition with a problem names it."""
    return any(path in one["message"] and one["problem"] for one in vm.status()["conditions"])


@contextlib.contextmanager
def full(folder: Path) -> Iterator[Path]:
    """An own file system, with nothing free."""
    with small(folder):
        yield fill(folder)


def test_a_new_machine_with_a_full_disk_says_so_and_joins_when_there_is_space(vm: Mesh) -> None:
    with full(vm.folder / "state") as filler:
        vm.start_controller()
        vm.start_daemon()
        vm.wait_problem("Registration", "disk-full")
        condition = vm.condition("Registration")
        assert f"{vm.folder}/state/registration.json cannot be written: No space left on device" in condition["message"]
        assert "df -h" in condition["hint"]
        assert vm.condition("State")["problem"] == "disk-full" and "instance-id" in vm.condition("State")["message"]
        done = vm.meshexp("cordon")
        assert done.returncode == 69 and f"df -h {vm.folder}/state" in done.stderr
        filler.unlink()
        vm.wait(lambda: bool(vm.status().get("ready")))
        vm.processes["harness"].send_signal(signal.SIGHUP)
        vm.wait_ready()
        assert vm.condition("State") == {}
        name = vm.status()["workload"]["name"]
        vm.stop("harness", signal.SIGKILL)
        vm.start_daemon()
        vm.wait_ready()
        assert vm.status()["workload"]["name"] == name


def test_a_read_only_state_directory_is_named(vm: Mesh) -> None:
    state = vm.folder / "state"
    with small(state):
        subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
        vm.start_controller()
        vm.start_daemon()
        vm.wait_problem("Registration", "state-unwritable")
        assert "Read-only file system" in vm.condition("Registration")["message"]
        subprocess.run(["mount", "-o", "remount,rw", str(state)], check=True)
        vm.wait(lambda: bool(vm.status().get("ready")))


def test_a_full_run_directory_is_told_and_is_no_hang(vm: Mesh) -> None:
    """Also of a daemon that was started then, after a crash: nobody is told to clean up under it."""
    run = vm.folder / "run"
    with small(run):
        vm.start_controller(lease="5s")
        vm.start_daemon()
        vm.wait_ready()
        filler = fill(run)
        vm.wait(lambda: told(vm)["phase"] == "Unknown")
        assert told(vm)["message"].endswith(f": the disk at {run} is full; `df -h {run}` shows it")
        assert "hangs" not in told(vm)["message"]
        vm.stop("harness", signal.SIGKILL)
        assert "has ended without a clean stop" in told(vm)["message"]
        vm.start_daemon()
        vm.wait(lambda: told(vm)["phase"] == "Unknown")
        assert told(vm)["message"].startswith("a daemon runs here and cannot say how things stand: the disk at ")
        filler.unlink()
        vm.wait(lambda: told(vm)["phase"] == "Ready")
    assert "Traceback" not in log(vm), log(vm)


def told(vm: Mesh) -> dict[str, Any]:
    return dict(json.loads(vm.meshexp("status", "-o", "json").stdout))
