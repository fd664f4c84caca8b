"""An operator keeps traffic away from a machine, with a reason that the cluster shows."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh import VM, Mesh, mesh

POD = "10.42.0.10"


@pytest.fixture
def vm() -> Iterator[Mesh]:
    with mesh() as found:
        found.start_controller()
        found.start_daemon()
        found.wait_ready()
        yield found


def told(vm: Mesh) -> list[str]:
    """The reasons that the controller has written, in their order."""
    return [line["reason"] for line in vm.events("readiness changed")]


def test_a_cordon_is_told_outlives_a_restart_and_is_lifted(vm: Mesh) -> None:
    done = vm.meshexp("cordon", "--reason", "new disks")
    assert done.returncode == 0, done.stderr
    assert vm.status()["reported"] == {"ready": False, "reason": "Cordoned"}
    assert told(vm)[-1] == "Cordoned"
    assert vm.condition("Cordoned")["message"] == "by `meshexp cordon`: new disks" and vm.status()["phase"] == "Degraded"
    assert vm.condition("Proxy")["status"] == "True", "it stays a member"
    assert vm.stop("harness") == 0
    vm.start_daemon()
    vm.wait(lambda: vm.status().get("reported") is not None)
    assert vm.status()["reason"] == "Cordoned"
    assert vm.meshexp("uncordon").returncode == 0
    vm.wait_ready()
    assert vm.meshexp("uncordon").stdout == "not cordoned\n"


def test_a_drain_waits_for_what_is_open_and_no_longer_than_told(vm: Mesh) -> None:
    server = Path(__file__).parents[1] / "package" / "traffic.py"
    vm.start("workload", vm.vm, "/usr/bin/python3", str(server), "serve", VM)
    vm.wait(lambda: ":8000" in vm.vm.run("ss", "-ltnH"))
    vm.node.run("ip", "address", "add", f"{POD}/32", "dev", "lo")  # what comes from the node itself is never redirected
    call = f"import socket, sys; s = socket.create_connection(('{VM}', 8000), source_address=('{POD}', 0)); sys.stdin.read()"
    caller = subprocess.Popen([*vm.node.enter, "/usr/bin/python3", "-c", call], stdin=subprocess.PIPE)
    assert caller.stdin is not None
    vm.wait(lambda: "ESTAB" in vm.vm.run("ss", "-tnH", "sport", "=", ":4143"))
    assert vm.meshexp("drain", "--timeout", "0.5").returncode == 1
    began = time.monotonic()
    threading.Timer(3, caller.stdin.close).start()
    done = vm.meshexp("drain", "--reason", "kernel")
    assert done.returncode == 0 and "drained" in done.stdout, done.stdout + done.stderr
    assert time.monotonic() - began >= 3
    assert vm.status()["reason"] == "Cordoned" and caller.wait(60) == 0


def test_without_a_daemon_it_counts_from_the_next_start(vm: Mesh) -> None:
    vm.stop("harness")
    done = vm.meshexp("cordon", "--reason", "later")
    assert done.returncode == 0 and "next start" in done.stderr
    vm.start_daemon()
    vm.wait(lambda: vm.status().get("reported") is not None)
    assert vm.status()["message"] == "later"


def test_a_controller_that_does_not_hear_it_is_said(vm: Mesh) -> None:
    vm.stop("controller")
    done = vm.meshexp("cordon")
    assert done.returncode == 75 and "has not heard" in done.stderr
    vm.start_controller()
    vm.wait(lambda: (vm.status().get("reported") or {}).get("reason") == "Cordoned")


def test_a_drain_keeps_the_reason_of_the_cordon_everywhere(vm: Mesh) -> None:
    assert vm.meshexp("cordon", "--reason", "new disks").returncode == 0
    before = json.loads((vm.folder / "state/cordon.json").read_text())
    for words in (("drain",), ("cordon",), ("drain", "--timeout", "1")):
        done = vm.meshexp(*words)
        assert done.returncode == 0 and done.stdout.startswith("cordoned: new disks; "), done.stdout + done.stderr
    assert json.loads((vm.folder / "state/cordon.json").read_text()) == before, "its beginning stays too"
    assert vm.condition("Cordoned")["message"] == "by `meshexp cordon`: new disks" and vm.status()["message"] == "new disks"
    assert told(vm) == ["Ready", "Cordoned"], "what the cluster shows is not written again"
    pid = vm.status()["children"]["proxy"]["pid"]
    vm.processes["harness"].send_signal(signal.SIGUSR1)  # as `meshexp proxy restart`, which waits until it is ready
    seen = set()
    while vm.status()["children"]["proxy"]["pid"] in (pid, None) or vm.condition("Proxy")["status"] != "True":
        seen.add((vm.status().get("reason"), vm.status().get("message")))
    assert seen == {("Cordoned", "new disks")}, "its proxy's restart is no reason of its own"
    assert told(vm) == ["Ready", "Cordoned"]
    done = vm.meshexp("drain", "--reason", "new memory")
    assert done.stdout.startswith("cordoned: new memory; "), "a reason that is given counts"
    vm.wait(lambda: vm.status()["message"] == "new memory")
    assert "it was cordoned: new memory, since 20" in vm.meshexp("uncordon").stdout
    vm.wait_ready()


def test_a_stop_of_a_cordoned_machine_keeps_the_reason(vm: Mesh) -> None:
    assert vm.meshexp("cordon", "--reason", "new disks").returncode == 0
    assert vm.stop("harness") == 0
    assert told(vm)[-1] == "Cordoned" and "Draining" not in told(vm)
