"""Bugs in the real daemon outside systemd: whatever step meets one, the machine stays a member, and its traffic goes on."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_support import ruleset
from tests.faulty import STEPS
from tests.mesh import NODE, ROOT, VM, Mesh, mesh

TRAFFIC = str(ROOT / "tests" / "package" / "traffic.py")
METRICS = "127.0.0.1:9464"
PROBE = {"httpGet": {"port": 8000, "path": "/"}, "periodSeconds": 1}
ONE_BY_ONE = ["cycle", "progress", "status", "certificate", "probe", "watch", "metrics", "signal", "reload"]
EVERY_PART = [[name for name in STEPS if name.endswith(f"-{step}")] for step in ("observe", "diff", "condition")]


@pytest.fixture(name="vm", scope="module")
def vm_fixture() -> Iterator[Mesh]:
    """A member under traffic."""
    with mesh() as found:
        certs = found.folder / "certs"
        # A short life: the certificate is looked at often.
        embedded = {
            "ca_cert": f"{certs}/ca.crt",
            "ca_key": f"{certs}/ca.key",
            "svid_ttl": "30s",
        }
        found.configure(metrics={"listen": METRICS}, identity={"mode": "embedded", "embedded": embedded})
        (found.folder / "faults").mkdir()
        found.group(probes=[PROBE])
        found.start("application", found.vm, sys.executable, TRAFFIC, "serve", "0.0.0.0")
        found.start_controller(lease="15s")
        start(found)
        found.wait_ready()
        yield found


def start(vm: Mesh) -> None:
    vm.start("harness", vm.vm, sys.executable, "-s", "-m", "tests.faulty", str(vm.folder / "faults"), "run")


def inject(vm: Mesh, *names: str) -> None:
    for name in names:
        (vm.folder / "faults" / name).touch()


def heal(vm: Mesh) -> None:
    for file in (vm.folder / "faults").iterdir():
        file.unlink()
    vm.processes["harness"].send_signal(signal.SIGHUP)


def wake(vm: Mesh) -> None:
    vm.processes["harness"].send_signal(signal.SIGUSR2)


def told(vm: Mesh, name: str) -> bool:
    """Whether the status names the step that fails."""
    wake(vm)
    if name == "status":  # what cannot be told in the status is in the log
        return "injected into status" in (vm.folder / "harness.log").read_text()
    text = vm.condition("Program").get("message", "")
    shown = STEPS[name][2] in text or any(f"injected into {name}" in c["message"] for c in vm.status()["conditions"])
    return shown and vm.status()["phase"] == "Degraded"


def standing(vm: Mesh) -> tuple[object, ...]:
    """What membership is made of: proxy, rules, routes, and what the controller has said of the machine since it was ready."""
    return (
        vm.processes["harness"].poll(),
        vm.status()["children"]["proxy"]["pid"],
        ruleset(vm),
        vm.vm.run("ip", "route", "show", "proto", "77"),
        vm.events("readiness changed", "workload deleted", "registered"),
    )


@contextlib.contextmanager
def traffic(vm: Mesh) -> Iterator[dict[str, Any]]:
    """Calls the machine's application through its proxy meanwhile; afterwards what came of the calls."""
    outcome: dict[str, Any] = {}
    caller = vm.node.start(sys.executable, TRAFFIC, "call", VM, NODE)
    assert caller.stdout is not None
    try:
        caller.stdout.readline()
        yield outcome
        caller.stdout.readline()  # ten more
        caller.send_signal(signal.SIGINT)
        outcome.update(json.loads(caller.stdout.read().splitlines()[-1]))
    finally:
        caller.kill()
        caller.wait()
        caller.stdout.close()


@pytest.mark.parametrize("names", [*([name] for name in ONE_BY_ONE), *EVERY_PART], ids=",".join)
def test_a_member_stays_one(vm: Mesh, names: list[str]) -> None:
    vm.wait(lambda: (vm.status()["reported"] or {}).get("ready"))
    before = standing(vm)
    with traffic(vm) as outcome:
        inject(vm, *names)
        if names == ["metrics"]:
            vm.vm.run("curl", "-s", f"http://{METRICS}/metrics", check=False)
        if names == ["signal"]:
            vm.processes["harness"].send_signal(signal.SIGUSR1)
        if names == ["reload"]:
            vm.processes["harness"].send_signal(signal.SIGHUP)
        try:
            for name in names:
                vm.wait(partial(told, vm, name))
            assert standing(vm) == before
        finally:
            heal(vm)
    assert outcome["failed"] == [] and outcome["requests"] > 10
    assert standing(vm) == before


def test_what_is_over_is_forgotten(vm: Mesh) -> None:
    vm.wait(lambda: vm.status()["phase"] == "Ready", 120)
    assert vm.condition("Program") == {}
    assert vm.meshexp("status").returncode == 0
    log = (vm.folder / "harness.log").read_text()
    assert "Traceback" in log and "injected into cycle" in log


def test_a_start_that_meets_a_bug_is_tried_again() -> None:
    with mesh() as vm:
        (vm.folder / "faults").mkdir()
        inject(vm, "start")
        vm.start_controller()
        start(vm)
        vm.wait(lambda: "the start failed 2 times" in vm.status().get("message", ""))
        (vm.folder / "faults" / "start").unlink()
        vm.wait(lambda: (vm.status().get("reported") or {}).get("ready"))
        assert vm.status()["phase"] == "Degraded", "what it began with is still told"
        assert vm.processes["harness"].poll() is None


def test_a_stop_tries_every_step() -> None:
    """Two of them meet a bug; what they could not take away is all that is left, and the exit status says so."""
    with mesh() as vm:
        (vm.folder / "faults").mkdir()
        vm.start_controller()
        start(vm)
        vm.wait_ready()
        pid = vm.status()["children"]["proxy"]["pid"]
        inject(vm, "redirect-stop", "dns-diff", "status")
        assert vm.stop("harness") == 70
        assert "table inet meshexp" in ruleset(vm), "this step failed"
        assert not Path(f"/proc/{pid}").exists()
        assert vm.vm.run("ip", "route", "show", "proto", "77") == ""
        assert "workload deleted" in (vm.folder / "controller.log").read_text()
        assert vm.meshexp("cleanup").returncode == 0
        assert "table inet meshexp" not in ruleset(vm)


def test_a_full_disk_takes_nothing_away() -> None:
    """What the controller tells cannot be kept, and the status cannot be written: the log says so, and it ends with the fault."""
    with mesh() as vm:
        run = vm.folder / "run"
        run.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=755", "tmpfs", str(run)], check=True)
        try:
            vm.start_controller(lease="15s")
            vm.start_daemon()
            vm.wait(lambda: (vm.status().get("reported") or {}).get("ready"))
            before = standing(vm)
            with contextlib.suppress(OSError), (run / "filler").open("wb", buffering=0) as filler:
                while filler.write(bytes(1024)):
                    pass
            ports = [{"name": "http", "port": 8000}]
            vm.group(template={"metadata": {"labels": {"service": "face", "more": "news"}}, "ports": ports})
            vm.wait(lambda: "cannot be written: No space left" in (vm.folder / "harness.log").read_text())
            assert standing(vm) == before
            (run / "filler").unlink()
            wake(vm)
            vm.wait(lambda: "news" in (run / "registration.json").read_text())
            vm.wait_ready()
            assert standing(vm) == before
        finally:
            subprocess.run(["umount", "--lazy", str(run)], check=True)
