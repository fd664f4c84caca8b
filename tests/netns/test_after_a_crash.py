"""A daemon that is killed, on a machine that lacks something when the next one starts: nothing leaves in plaintext, and a member
stays one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.daemon_support import ruleset, vm_fixture  # noqa: F401
from tests.mesh import NODE, Mesh
from tests.netns import test_waiting as waiting

TABLE = "table inet meshexp"


@contextlib.contextmanager
def small(folder: Path) -> Iterator[None]:
    """Its own file system, of half a MiB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=755", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass
    return filler


@pytest.mark.parametrize("left", ["", "{", "[]", '{"name": 1}'])
def test_rules_stay_until_the_controller_tells_what_they_are_to_be(vm: Mesh, left: str) -> None:
    """What it told is lost, and it does not answer: without the rules all would go on in plaintext."""
    vm.start_controller()
    vm.start_daemon()
    vm.wait_ready()
    before = ruleset(vm)
    vm.stop("controller", signal.SIGKILL)
    vm.stop("harness", signal.SIGKILL)
    known = vm.folder / "run/registration.json"
    known.write_text(left) if left else known.unlink()
    vm.start_daemon()
    vm.wait_problem("Registration", "controller-unreachable")
    vm.wait(lambda: "left as the daemon before this one" in vm.condition("Redirected").get("message", ""))
    assert ruleset(vm) == before
    vm.start_controller()
    vm.wait_ready()
    assert ruleset(vm) == before
    assert vm.stop("harness") == 0
    assert TABLE not in ruleset(vm)


def test_routes_that_the_controller_told_stay_until_it_answers(vm: Mesh) -> None:
    """What it told is lost. Configured ones that are missing come back meanwhile: the way to the controller may be one."""
    told = "10.44.0.0/24"
    facts = {"pod_routes": [{"pod_cidr": told, "via": NODE}]}
    (vm.folder / "facts.yaml").write_text(yaml.safe_dump(facts))
    vm.start_controller(facts=f"{vm.folder}/facts.yaml")
    vm.start_daemon()
    vm.wait_ready()
    before = vm.vm.run("ip", "route", "show", "proto", "77")
    assert told in before and "10.42.0.0/24" in before
    vm.stop("controller", signal.SIGKILL)
    vm.stop("harness", signal.SIGKILL)
    (vm.folder / "run/registration.json").unlink()
    vm.vm.run("ip", "route", "del", "10.42.0.0/24", "proto", "77")
    vm.start_daemon()
    vm.wait_problem("Registration", "controller-unreachable")
    vm.wait(lambda: "left as the daemon before this one" in vm.condition("Redirected").get("message", ""))
    assert vm.vm.run("ip", "route", "show", "proto", "77") == before
    (vm.folder / "facts.yaml").write_text("{}")
    vm.start_controller(facts=f"{vm.folder}/facts.yaml")
    vm.wait_ready()
    assert told not in vm.vm.run("ip", "route", "show", "proto", "77"), "the cluster has it no longer"


def test_a_full_state_directory_does_not_keep_a_member_out(vm: Mesh) -> None:
    state = vm.folder / "state"
    with small(state):
        vm.start_controller()
        vm.start_daemon()
        vm.wait_ready()
        name = vm.status()["workload"]["name"]
        fill(state)
        vm.stop("harness", signal.SIGKILL)
        vm.start_daemon()
        vm.wait_ready()
        assert vm.status()["workload"]["name"] == name


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_waiting_daemon_outlives_what_is_meant_for_another(vm: Mesh, number: signal.Signals) -> None:
    (vm.folder / "etc/harness.yaml").write_text("")
    waiting.start(vm)
    vm.wait(lambda: vm.status().get("phase") == "Waiting")
    vm.processes["harness"].send_signal(number)
    waiting.reload(vm)
    vm.wait(lambda: (vm.folder / "harness.log").read_text().count("waiting for configuration") == 2)
    assert vm.processes["harness"].poll() is None


def test_a_cleanup_leaves_the_status_of_a_daemon_that_waits(vm: Mesh) -> None:
    (vm.folder / "etc/harness.yaml").write_text("")
    waiting.start(vm)
    vm.wait(lambda: vm.status().get("phase") == "Waiting")
    assert vm.meshexp("cleanup").returncode == 0
    assert vm.status()["phase"] == "Waiting"


def test_reloads_in_a_row_end_no_waiting_daemon(vm: Mesh) -> None:
    """Each makes a fresh process, which does not listen yet when the next comes. To systemd an end by SIGHUP is a clean one."""
    (vm.folder / "etc/harness.yaml").write_text("")
    waiting.start(vm)
    vm.wait(lambda: vm.status().get("phase") == "Waiting")
    for _ in range(40):
        waiting.reload(vm)
        with contextlib.suppress(subprocess.TimeoutExpired):
            vm.processes["harness"].wait(0.03)
    vm.start_controller()
    vm.configure()
    waiting.reload(vm)
    vm.wait_ready()


def test_a_waiting_daemon_without_a_place_for_its_status_goes_on(vm: Mesh) -> None:
    (vm.folder / "run/status.json").mkdir(parents=True)
    (vm.folder / "etc/harness.yaml").write_text("")
    supervisor = waiting.start(vm)
    supervisor.wait(vm, "meshexp join")
    waiting.reload(vm)
    vm.wait(lambda: (vm.folder / "harness.log").read_text().count("waiting for configuration") == 2)
    assert vm.processes["harness"].poll() is None


def test_a_reload_without_a_way_to_the_cluster_leaves_nothing(vm: Mesh) -> None:
    """The address is not known for the moment: neither does the machine leave, nor is its proxy started again."""
    vm.start_controller()
    vm.start_daemon()
    vm.wait_ready()
    proxy = vm.status()["children"]["proxy"]["pid"]
    vm.vm.run("ip", "link", "set", "eth0", "down")
    waiting.reload(vm)
    vm.wait(lambda: "configuration loaded again" in (vm.folder / "harness.log").read_text())
    vm.wait_problem("Registration", "lease-lapsed")
    vm.vm.run("ip", "link", "set", "eth0", "up")
    vm.wait_ready()
    assert vm.status()["children"]["proxy"]["pid"] == proxy
    assert "leave the group" not in (vm.folder / "harness.log").read_text()


def test_a_start_before_the_network_joins_when_it_comes(vm: Mesh) -> None:
    vm.start_controller()
    vm.vm.run("ip", "link", "set", "eth0", "down")
    vm.start_daemon()
    vm.wait(lambda: vm.status().get("phase") == "Starting")
    vm.wait(lambda: vm.condition("Identity").get("status") == "True")
    assert vm.status()["workload"]["addresses"] == []
    vm.vm.run("ip", "link", "set", "eth0", "up")
    vm.wait_ready()


@pytest.mark.parametrize("left", [b"", b"\xff\xfe" * 99, b"x" * 5000])
def test_an_instance_id_of_no_use_is_made_again(vm: Mesh, left: bytes) -> None:
    (vm.folder / "state").mkdir()
    (vm.folder / "state/instance-id").write_bytes(left)
    vm.start_controller()
    vm.start_daemon()
    vm.wait_ready()
