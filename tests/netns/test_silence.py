"""What a machine says of itself when nobody hears it: packets are silently dropped, the daemon is stopped, or it hangs."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_support import vm_fixture  # noqa: F401
from tests.exposition import read
from tests.mesh import Mesh
from tests.namespaces import Namespace
from tests.netns.test_metrics import get

LEASE = 5
SENTENCE = re.compile(rf"no answer for \d+ s \(lease {LEASE} s\): peers may have stopped sending")
EVERYTHING = ("iifname eth0", "oifname eth0")
SOON = 30.0
"""Seconds: many leases, and far less than a call was waited for before."""


def cut(vm: Mesh, *what: str) -> None:
    """Drops packets in both directions; nobody is told."""
    vm.vm.run("nft", "add table inet cut")
    for hook in ("input", "output"):
        vm.vm.run("nft", f"add chain inet cut {hook} {{ type filter hook {hook} priority -300; }}")
        for match in what:
            if not match.startswith("iifname" if hook == "output" else "oifname"):
                vm.vm.run("nft", f"add rule inet cut {hook} {match} drop")


def repair(vm: Mesh) -> None:
    vm.vm.run("nft", "delete table inet cut")


def started(vm: Mesh, lease: int = LEASE) -> None:
    vm.start_controller(lease=f"{lease}s")
    vm.start_daemon()
    vm.wait_ready()


def told(vm: Mesh, *options: str) -> tuple[int, dict[str, Any]]:
    """By `meshexp status`."""
    done = vm.meshexp("status", "-o", "json", *options)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def checks(vm: Mesh) -> dict[str, str]:
    """The codes of the membership's checks; empty of those that passed."""
    found = json.loads(vm.meshexp("check", "--proxy", "-o", "json").stdout)
    by_name = {category["categoryName"]: category["checks"] for category in found["categories"]}
    return {one["description"]: one.get("code", "") for one in by_name["meshexp-membership"]}


def is_unknown(vm: Mesh) -> bool:
    return bool(told(vm)[1]["phase"] == "Unknown")


HEARD = "the cluster still hears this machine"


def test_a_cut_is_told_within_the_lease_and_is_nothing_that_this_machine_can_fix(vm: Mesh) -> None:
    started(vm)
    assert checks(vm)[HEARD] == ""
    cut(vm, *EVERYTHING)
    vm.wait(lambda: SENTENCE.search(str(told(vm)[1]["message"])), SOON)
    code, status = told(vm)
    assert (code, status["phase"], status["ready"], status["reason"]) == (1, "Degraded", False, "Unreachable")
    condition = next(one for one in status["conditions"] if one["name"] == "Registration")
    assert (condition["status"], condition["problem"], condition["where"]) == ("Unknown", "lease-lapsed", "either")
    assert SENTENCE.search(condition["message"])
    assert vm.meshexp("status", "--local").returncode == 0
    assert checks(vm)[HEARD] == "lease-lapsed"
    assert read(get(vm.vm)).value("meshexp_ready") == 0
    vm.wait(lambda: "Unreachable" in (vm.folder / "controller.log").read_text(), SOON)
    repair(vm)
    vm.wait(lambda: told(vm)[0] == 0)
    assert checks(vm)[HEARD] == ""


def test_connections_that_carry_nothing_any_more_are_replaced_before_the_lease_ends(vm: Mesh) -> None:
    """As behind a router that has forgotten them, while it lets new ones through."""
    started(vm, lease=9)
    ports = re.findall(r":(\d+)\s+\S+:8081\b", vm.vm.run("ss", "-tnH", "state", "established"))
    assert ports
    either = ", ".join(ports)
    cut(vm, f"tcp sport {{ {either} }}", f"tcp dport {{ {either} }}")
    before = vm.status()["calls"]["hold"]
    vm.wait(lambda: vm.status()["calls"]["hold"]["failed"] > before["failed"], SOON)
    vm.wait(lambda: vm.status()["calls"]["hold"]["answered"] > before["answered"] + 1, SOON)
    assert "lease-lapsed" not in (vm.folder / "harness.log").read_text()
    assert "Unreachable" not in (vm.folder / "controller.log").read_text()


def timers(where: Namespace) -> set[str]:
    """Of the connections to the controller: what the kernel waits for on each."""
    lines = where.run("ss", "-tnoH", "state", "established").splitlines()
    return {(re.findall(r"timer:\((\w+)", line) or ["none"])[0] for line in lines if ":8081" in line}


def callers(vm: Mesh) -> set[str]:
    """The ports from which somebody has called the controller, as its own end knows them."""
    return set(re.findall(r":8081\s+\S+:(\d+)\b", vm.node.run("ss", "-tnH")))


def test_the_kernel_finds_a_dead_connection_long_before_a_held_answer_is_overdue(vm: Mesh) -> None:
    started(vm, lease=300)
    for end in (vm.vm, vm.node):
        # "on": a segment was just sent, and its acknowledgement is waited for.
        found = timers(end)
        assert found and found <= {"keepalive", "on"}, "both ends ask the other whether it is there"
    ports = re.findall(r":(\d+)\s+\S+:8081\b", vm.vm.run("ss", "-tnH", "state", "established"))
    either = ", ".join(ports)
    assert callers(vm) >= set(ports)
    cut(vm, f"tcp sport {{ {either} }}", f"tcp dport {{ {either} }}")
    before = vm.status()["calls"]["hold"]
    vm.wait(lambda: vm.status()["calls"]["hold"]["failed"] > before["failed"])
    log = (vm.folder / "harness.log").read_text()
    assert "connection timed out" in log, f"an answer has 110 s here: {log[-700:]}"
    vm.wait(lambda: callers(vm).isdisjoint(ports))
    vm.wait(lambda: vm.status()["calls"]["hold"]["answered"] > before["answered"])
    assert vm.status()["ready"] is True


def test_a_report_that_hangs_does_not_let_a_short_lease_end(vm: Mesh) -> None:
    """The answer to it is lost with the connections, when the machine has something to say."""
    started(vm, lease=6)
    ports = re.findall(r":(\d+)\s+\S+:8081\b", vm.vm.run("ss", "-tnH", "state", "established"))
    either = ", ".join(ports)
    cut(vm, f"tcp sport {{ {either} }}", f"tcp dport {{ {either} }}")
    failed = vm.status()["calls"]["hold"]["failed"]
    (vm.folder / "state/cordon.json").write_text(json.dumps({"reason": "by a test"}))
    vm.processes["harness"].send_signal(signal.SIGUSR2)
    vm.wait(lambda: vm.status()["calls"]["hold"]["failed"] > failed, SOON)
    vm.wait(lambda: (vm.status()["reported"] or {}).get("reason") == "Cordoned", SOON)
    assert "lease-lapsed" not in (vm.folder / "harness.log").read_text()
    assert "Unreachable" not in (vm.folder / "controller.log").read_text()


def test_a_stopped_daemon_is_not_ready_whoever_asks(vm: Mesh) -> None:
    started(vm)
    daemon = vm.processes["harness"]
    daemon.send_signal(signal.SIGSTOP)
    vm.wait(lambda: is_unknown(vm), SOON)
    code, status = told(vm)
    assert (code, status["ready"], status["phase_number"]) == (1, False, 5)
    assert f"(pid {daemon.pid}) is stopped (state T)" in status["message"] and "kill -CONT" in status["message"]
    assert {one["status"] for one in status["conditions"]} == {"Unknown"}, "what was so is not said to be so"
    assert "√" not in vm.meshexp("status").stdout
    assert vm.meshexp("status", "--wait", "0.2").returncode == 1
    assert vm.meshexp("status", "--local").returncode == 1
    assert checks(vm) == {"meshexp-harness keeps its status up to date": "daemon-hangs", HEARD: "daemon-hangs"}
    for words in (("cordon",), ("uncordon",), ("proxy", "restart")):
        done = vm.meshexp(*words)
        assert done.returncode != 0 and "is stopped (state T)" in done.stderr, words
    daemon.send_signal(signal.SIGCONT)
    vm.wait(lambda: told(vm)[0] == 0)


def test_a_daemon_that_hangs_is_not_ready(vm: Mesh) -> None:
    """Its process runs as ever, but one step of it does not end."""
    vm.start_controller(lease=f"{LEASE}s")
    faults = vm.folder / "faults"
    faults.mkdir()
    daemon = vm.start("harness", vm.vm, sys.executable, "-s", "-m", "tests.faulty", str(faults), "run")
    vm.wait_ready()
    (faults / "cycle.hang").touch()
    daemon.send_signal(signal.SIGUSR2)
    vm.wait(lambda: is_unknown(vm), SOON)
    message = told(vm)[1]["message"]
    assert re.search(rf"\(pid {daemon.pid}\) has not written for \d+ s: it hangs \(state [SD]\); `", message), message
    assert vm.meshexp("status", "--local").returncode == 1
    (faults / "cycle.hang").unlink()
    vm.wait(lambda: told(vm)[0] == 0)


def test_a_daemon_that_starts_in_an_outage_counts_from_its_start(vm: Mesh) -> None:
    started(vm)
    cut(vm, *EVERYTHING)
    vm.stop("harness", signal.SIGKILL)
    vm.start_daemon()
    vm.wait(lambda: SENTENCE.search(str(told(vm)[1]["message"])), SOON)
    assert vm.condition("Registration")["problem"] == "lease-lapsed"
    assert vm.meshexp("status", "--local").returncode == 0
    repair(vm)
    vm.wait(lambda: told(vm)[0] == 0)


def test_another_process_with_the_daemons_pid_is_not_the_daemon(vm: Mesh) -> None:
    started(vm)
    vm.stop("harness", signal.SIGKILL)
    file = vm.folder / "run" / "status.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps(data | {"pid": os.getpid()}))
    assert told(vm)[1] == {"phase": "Stopped", "ready": False, "message": told(vm)[1]["message"]}
    assert told(vm)[0] == 1


def test_local_is_about_this_machine(vm: Mesh) -> None:
    """A container that is started in an outage is not restarted for that, nor one that is in the mesh already."""
    vm.group(probes=[{"tcpSocket": {"host": "127.0.0.1", "port": 4191}, "periodSeconds": 1, "failureThreshold": 1}])
    assert vm.meshexp("status", "--local").returncode == 1, "there is no daemon"
    vm.start_daemon()
    vm.wait_problem("Registration", "controller-unreachable")
    assert (vm.meshexp("status").returncode, vm.meshexp("status", "--local").returncode) == (1, 0)
    vm.start_controller()
    vm.wait(lambda: told(vm)[0] == 0)
    done = vm.meshexp("status", "--local")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "√ nothing to fix on this machine")
    vm.stop("controller", signal.SIGKILL)
    vm.wait_problem("Registration", "lease-lapsed")
    assert (vm.meshexp("status").returncode, vm.meshexp("status", "--local").returncode) == (1, 0)


BROKEN = {
    "the application is down": (
        {"probes": [{"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 1}]},
        "Application",
    ),
    "the proxy dies": ({}, "Proxy"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_local_is_false_for(vm: Mesh, name: str) -> None:
    group, part = BROKEN[name]
    vm.group(**group)
    vm.start_controller()
    vm.start_daemon()
    vm.wait(lambda: vm.condition("Redirected").get("status") == "True")
    if not group:
        vm.wait_ready()
        program: Path = vm.folder / "development-proxy"
        program.write_text("#!/bin/sh\nexit 7\n")
        os.kill(vm.status()["children"]["proxy"]["pid"], signal.SIGKILL)

    def is_named() -> bool:
        done = vm.meshexp("status", "--local")
        line = done.stdout.splitlines()[-1]
        return done.returncode == 1 and line.startswith("× to fix on this machine: ") and part in line

    vm.wait(is_named, SOON)  # a proxy that is just being started again is nothing to fix yet
