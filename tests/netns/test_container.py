"""A container's first process in namespaces: the workload starts in the mesh or not at all, and what ends with what."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh import NODE, Mesh, mesh
from tests.snapshots import snapshot

pytestmark = pytest.mark.root
USER = "nobody"
RUNS = "the workload's user is"
WORKLOAD = f'echo "{RUNS} $(id -u)"; exec sleep 3600'


@pytest.fixture
def vm() -> Iterator[Mesh]:
    with mesh() as found:
        yield found


def start(vm: Mesh, *command: str, **redirect: str) -> None:
    """`meshexp container COMMAND`, as process 1, with `meshexp` in PATH."""
    programs = vm.folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "meshexp").write_text(f'#!/bin/sh\nexec {sys.executable} -s -m harness "$@"\n')
    (programs / "meshexp").chmod(0o755)
    vm.configure(**({"redirect": redirect} if redirect else {}))
    # The image makes a configuration of its own; what a user adds is beside it.
    (vm.folder / "etc/harness.d").mkdir(exist_ok=True)
    (vm.folder / "etc/harness.yaml").replace(vm.folder / "etc/harness.d/10-test.yaml")
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "WORKLOAD_NAME": "face",
        "WORKLOAD_NAMESPACE": "faces",
        "WORKLOAD_USER": USER,
        "MESHEXP_IDENTITY_MODE": "embedded",
    }
    inside = ("unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")
    vm.start("container", vm.vm, *inside, sys.executable, "-s", "-m", "harness", "container", *command, env=variables)


def said(vm: Mesh) -> str:
    return (vm.folder / "container.log").read_text()


def signal_daemon(vm: Mesh, number: signal.Signals) -> None:
    send(vm, vm.status()["pid"], number)


def send(vm: Mesh, inside: int, number: signal.Signals) -> None:
    """`inside`: the process's id in the container's own namespace."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # one that has ended meanwhile
            ours = str(vm.folder) in status.with_name("environ").read_text(errors="replace")
            if ours and re.search(rf"^NSpid:\t\d+\t{inside}$", status.read_text(), re.MULTILINE):
                os.kill(int(status.parent.name), number)
                return
    raise AssertionError(f"there is no process {inside} in the container")


def rules(vm: Mesh) -> str:
    return vm.vm.run("nft", "list", "ruleset")


def test_the_workload_starts_in_the_mesh_as_its_user(vm: Mesh) -> None:
    vm.start_controller()
    start(vm, "sh", "-c", WORKLOAD)
    vm.wait(lambda: RUNS in said(vm))
    assert f"{RUNS} {pwd.getpwnam(USER).pw_uid}" in said(vm)
    assert "table inet meshexp" in rules(vm)


def test_closed_it_waits_for_the_mesh_whatever_an_old_status_says(vm: Mesh) -> None:
    """Nobody answers as the controller until the test starts it."""
    (vm.folder / "run").mkdir()
    condition = {"name": "Redirected", "status": "True", "message": "", "problem": None, "severity": None, "hint": None}
    said_before = snapshot() | {"pid": 1, "pid_started": None, "conditions": [condition]}
    (vm.folder / "run/status.json").write_text(json.dumps(said_before))
    start(vm, "sh", "-c", WORKLOAD)
    vm.wait(lambda: said(vm).count("the workload waits") >= 3, 120)  # after 5, 15 and 35 s
    assert RUNS not in said(vm) and "controller.address" in said(vm)
    vm.start_controller()
    vm.wait(lambda: RUNS in said(vm), 120)
    assert "table inet meshexp" in rules(vm)


def test_open_it_starts_with_a_warning(vm: Mesh) -> None:
    start(vm, "sh", "-c", WORKLOAD, on_proxy_loss="open")
    vm.wait(lambda: RUNS in said(vm), 120)
    assert "outside it, in plaintext, since redirect.on_proxy_loss is open" in said(vm)


def test_a_killed_daemon_is_followed_by_another_under_the_same_rules(vm: Mesh) -> None:
    vm.start_controller()
    start(vm, "sh", "-c", WORKLOAD)
    vm.wait(lambda: RUNS in said(vm))
    before = rules(vm)
    signal_daemon(vm, signal.SIGKILL)
    vm.wait(lambda: "the daemon has ended with 137" in said(vm))
    vm.wait_ready()
    assert said(vm).count(RUNS) == 1
    assert rules(vm) == before


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "lost"])
def test_a_crash_while_the_configuration_is_wrong_ends_no_member(vm: Mesh, kept: bool) -> None:
    """It goes on with the configuration that was in force; without that it is tried again, and all it sends is refused."""
    vm.start_controller()
    start(vm, "sh", "-c", WORKLOAD)
    vm.wait(lambda: RUNS in said(vm))
    vm.wait_ready()
    before = rules(vm)
    bad = vm.folder / "etc/harness.d/99-bad.yaml"
    bad.write_text("nope: such key\n")
    if not kept:
        (vm.folder / "state/configuration.json").unlink()
    signal_daemon(vm, signal.SIGKILL)
    if kept:
        vm.wait_problem("Configuration", "config-reload-failed")
        vm.wait(lambda: bool(vm.status()["ready"]))
    else:
        vm.wait(lambda: said(vm).count("the daemon has ended with 78") >= 2)
        assert "nope: unknown key" in said(vm)
    assert rules(vm) == before
    bad.unlink()
    if kept:
        send(vm, 1, signal.SIGHUP)
    vm.wait_ready()
    assert vm.condition("Configuration") == {}
    assert vm.processes["container"].poll() is None and said(vm).count(RUNS) == 1


def test_a_first_configuration_that_is_wrong_ends_the_container(vm: Mesh) -> None:
    start(vm, "sh", "-c", WORKLOAD, outbound="mash")
    assert vm.processes["container"].wait(60) == 78
    assert "redirect.outbound" in said(vm) and RUNS not in said(vm)


def test_a_daemon_that_is_told_to_stop_ends_the_container(vm: Mesh) -> None:
    """Its redirect goes with it: the workload would go on in plaintext."""
    vm.start_controller()
    start(vm, "sh", "-c", WORKLOAD)
    vm.wait(lambda: RUNS in said(vm))
    signal_daemon(vm, signal.SIGTERM)
    assert vm.processes["container"].wait(60) == 143
    assert "the daemon was told to stop" in said(vm) and "meshexp" not in rules(vm)


LAST_CALL = """
trap 'echo call >/dev/tcp/10.42.0.9/9000 && echo went out || echo refused; exit 3' TERM
echo "the workload's user is $(id -u)"
while :; do sleep 0.1; done
"""


def test_what_a_workload_sends_at_its_end_does_not_leave_in_plaintext(vm: Mesh) -> None:
    """The daemon's routes are gone by then; here another one leads there too."""
    vm.node.run("ip", "address", "add", "10.42.0.9/32", "dev", "lo")
    vm.start("peer", vm.node, sys.executable, "-m", "http.server", "--bind", "10.42.0.9", "9000")
    vm.vm.run("ip", "route", "add", "default", "via", NODE)
    vm.start_controller()
    start(vm, "bash", "-c", LAST_CALL)
    vm.wait(lambda: RUNS in said(vm))
    vm.wait_ready()
    send(vm, 1, signal.SIGTERM)
    vm.processes["container"].wait(60)
    assert "refused" in said(vm) and "went out" not in said(vm)
    assert "meshexp" not in rules(vm)


def test_what_cannot_run_ends_it_before_anything_is_started(vm: Mesh) -> None:
    start(vm, "no-such")
    assert vm.processes["container"].wait(60) == 1
    assert "no-such is in none of the folders of PATH" in said(vm).splitlines()[-1]
    assert not (vm.folder / "run/status.json").exists() and "meshexp" not in rules(vm)
