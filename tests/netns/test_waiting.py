"""A supervised daemon whose configuration cannot be used: it waits and says why, and a member goes on with what it had."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mesh import NODE, Mesh, mesh


@pytest.fixture
def vm() -> Iterator[Mesh]:
    with mesh() as found:
        yield found


class Supervisor:
    """In systemd's place: keeps the last value of each field that it is told."""

    def __init__(self, path: Path) -> None:
        self.path, self.told = path, dict[str, str]()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while message := self._socket.recv(65536):
                self.told |= dict(line.split("=", 1) for line in message.decode().splitlines())

    def wait(self, vm: Mesh, *words: str) -> None:
        """Until its status line has each of them."""
        vm.wait(lambda: all(word in self.told.get("STATUS", "") for word in words))


def start(vm: Mesh) -> Supervisor:
    supervisor = Supervisor(vm.folder / f"notify-{len(list(vm.folder.glob('notify-*')))}")
    argv = (sys.executable, "-s", "-m", "harness", "run")
    vm.start("harness", vm.vm, *argv, env={"NOTIFY_SOCKET": str(supervisor.path)})
    return supervisor


def waits(vm: Mesh, *words: str) -> None:
    """With the daemon alive, and every word in what it says."""
    vm.wait(lambda: vm.status().get("phase") == "Waiting" and all(w in str(vm.condition("Configuration")) for w in words))
    assert vm.processes["harness"].poll() is None
    done = vm.meshexp("status")
    assert done.returncode == 1 and all(word in done.stdout for word in words), done.stdout


def reload(vm: Mesh) -> None:
    vm.processes["harness"].send_signal(signal.SIGHUP)


def test_the_first_configuration_by_hand_has_faults(vm: Mesh) -> None:
    vm.start_controller()
    file = vm.folder / "etc/harness.yaml"
    right = file.read_text()
    file.write_text("")
    supervisor = start(vm)
    vm.wait(lambda: vm.status().get("phase") == "Waiting")
    assert "`meshexp join INVITATION`" in vm.status()["message"]
    supervisor.wait(vm, "meshexp join")
    file.write_text(right + "\nproxi: {}\nredirect: {outbound: mash}\n")
    reload(vm)
    waits(vm, "proxi", "redirect.outbound", "config-invalid")
    supervisor.wait(vm, "proxi", "redirect.outbound")
    assert supervisor.told["READY"] == "1"
    vm.wait(lambda: "redirect.outbound" in (vm.folder / "harness.log").read_text())
    assert (vm.folder / "harness.log").read_text().count("redirect.outbound") == 1, "once in the journal"
    pid = vm.status()["pid"]
    file.write_text(right)
    assert vm.status()["phase"] == "Waiting", "a file may be half written: the reload says that it is whole"
    reload(vm)
    vm.wait_ready()
    assert vm.status()["pid"] == pid


def test_what_the_machine_lacks_is_named_at_once_and_looked_for_again(vm: Mesh) -> None:
    vm.start_controller()
    anchors = vm.folder / "anchors.crt"
    vm.configure(
        proxy={"user": "nobody-of-this-name"}, probes={"commands": {"one": ["/bin/true"]}, "user": "root"},
        controller={"trust_anchors": str(anchors)}, workload={"users": ["nor-this-one"]},
    )  # fmt: skip
    start(vm)
    waits(vm, "proxy.user", "probes.user", "workload.users[0]", "controller.trust_anchors", "No such file")
    vm.configure(controller={"trust_anchors": str(anchors)})
    reload(vm)
    vm.wait(lambda: "proxy.user" not in str(vm.condition("Configuration")))
    waits(vm, "controller.trust_anchors")
    file = vm.folder / "etc/harness.yaml"
    right = file.read_text()
    file.write_text("workload: [half")
    anchors.write_text("not yet")
    vm.wait(lambda: "no usable PEM" in str(vm.condition("Configuration")))
    assert "harness.yaml" not in str(vm.condition("Configuration")), "somebody may be writing it"
    file.write_text(right)
    anchors.write_text((vm.folder / "certs/ca.crt").read_text())
    vm.wait_ready()


def test_without_a_supervisor_it_ends_with_every_fault(vm: Mesh) -> None:
    vm.configure(proxy={"user": "nobody-of-this-name"}, controller={"trust_anchors": "/nonexistent"})
    done = vm.meshexp("run")
    assert done.returncode == 78 and "proxy.user" in done.stderr and "controller.trust_anchors" in done.stderr
    check = vm.meshexp("config", "check")
    assert (check.returncode, check.stderr) == (78, done.stderr)
    quiet = vm.meshexp("config", "check", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (78, "", "")


def garbage(path: Path) -> None:
    path.write_text("-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


MAKE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "empty": lambda path: path.touch(),
    "garbage": garbage,
    "bytes": lambda path: path.write_bytes(b"\xff\xfe" * 99),
    "huge": huge,
}
FILES: dict[str, Callable[[str], dict[str, Any]]] = {
    "controller.trust_anchors": lambda path: {"controller": {"trust_anchors": path}},
    "identity.embedded.ca_cert": lambda path: {"identity": {"embedded": {"ca_cert": path, "ca_key": path}}},
    "identity.embedded.ca_key": lambda path: {"identity": {"embedded": {"ca_cert": path, "ca_key": path}}},
    "identity.local.ca_cert": lambda path: {"identity": {"mode": "local", "local": {"ca_cert": path, "ca_key": path}}},
    "identity.agent.key_file": lambda path: {
        "identity": {"mode": "agent", "agent": {"server_address": "x:1", "certificate_file": path, "key_file": path}}
    },
    "proxy.path": lambda path: {"proxy": {"path": path}},
    "identity.spire.server_path": lambda path: {"identity": {"mode": "local", "spire": {"server_path": path}}},
    "probes.commands.one": lambda path: {"probes": {"commands": {"one": [path]}}},
}
OTHERS: dict[str, dict[str, Any]] = {
    "proxy.user": {"proxy": {"user": "nobody-of-this-name"}},
    "probes.user": {"probes": {"commands": {"one": ["/bin/true"]}, "user": "root"}},
    "identity.spire.agent_user": {"identity": {"mode": "local", "spire": {"agent_user": "2102"}}},
    "workload.users[0]": {"workload": {"users": ["nobody-of-this-name"]}},
    "controller.address": {"controller": {"address": "no port"}},
    "network.node": {"network": {"node": "10.9.0.300"}},
}


def is_refused(vm: Mesh, path: str) -> None:
    """The condition names it, the daemon goes on with what it had, and `config check` has the same opinion."""
    assert vm.meshexp("config", "check", "--quiet").returncode == 78
    reload(vm)
    vm.wait(lambda: f"{path}:" in vm.condition("Configuration").get("message", ""))
    assert vm.condition("Configuration")["problem"] == "config-reload-failed"
    assert vm.status()["phase"] == "Degraded" and vm.status()["ready"]


def test_a_reload_takes_nothing_that_does_not_work_here(vm: Mesh) -> None:
    """Each key that names a file, a user or an address, in each way in which it can be wrong."""
    vm.start_controller()
    start(vm)
    vm.wait_ready()
    proxy = vm.status()["children"]["proxy"]["pid"]
    for path, sections in OTHERS.items():
        vm.configure(**sections)
        is_refused(vm, path)
    for number, (how, make) in enumerate(MAKE.items()):
        file = vm.folder / f"file-{number}"
        make(file)
        # All at once: one reload names every one of them.
        named: dict[str, Any] = {}
        for path in ("controller.trust_anchors", "identity.embedded.ca_cert", "proxy.path", "probes.commands.one"):
            named |= FILES[path](str(file))
        vm.configure(**named)
        for path in ("controller.trust_anchors", "identity.embedded.ca_cert", "identity.embedded.ca_key", "proxy.path"):
            is_refused(vm, path)
        assert "probes.commands.one:" in vm.condition("Configuration")["message"], how
    for path in ("identity.local.ca_cert", "identity.agent.key_file", "identity.spire.server_path"):
        vm.configure(**FILES[path]("/nonexistent"))
        is_refused(vm, path)
    vm.configure()
    reload(vm)
    vm.wait_ready()
    assert vm.condition("Configuration") == {} and vm.status()["children"]["proxy"]["pid"] == proxy


def test_what_cannot_be_read_as_a_file_holds_up_neither_a_reload_nor_a_start(vm: Mesh) -> None:
    vm.start_controller()
    start(vm)
    vm.wait_ready()
    drop_in = vm.folder / "etc/harness.d/99-x.yaml"
    drop_in.parent.mkdir()
    for how in ("a folder", "a pipe", "garbage", "bytes", "huge"):
        MAKE[how](drop_in)
        is_refused(vm, str(drop_in))
        vm.stop("harness", signal.SIGKILL)
        (vm.folder / "run/status.json").unlink()
        start(vm)
        vm.wait_problem("Configuration", "config-reload-failed")
        vm.wait(lambda: bool(vm.status()["ready"]))
        drop_in.rmdir() if drop_in.is_dir() else drop_in.unlink()
    reload(vm)
    vm.wait_ready()
    assert vm.condition("Configuration") == {}


def test_a_machine_that_is_no_member_waits_and_names_it(vm: Mesh) -> None:
    (vm.folder / "etc/harness.yaml").replace(vm.folder / "right.yaml")
    os.mkfifo(vm.folder / "etc/harness.yaml")
    start(vm)
    waits(vm, "harness.yaml", "it is a pipe")


def test_a_member_that_is_restarted_with_a_bad_configuration_goes_on_with_the_one_it_had(vm: Mesh) -> None:
    vm.start_controller()
    start(vm)
    vm.wait_ready()
    name = vm.status()["workload"]["name"]
    for bad in ("no: such key\n", "", "workload: [\n"):
        vm.stop("harness", signal.SIGKILL)
        (vm.folder / "etc/harness.yaml").write_text(bad)
        start(vm)
        vm.wait_problem("Configuration", "config-reload-failed")
        vm.wait(lambda: bool(vm.status()["ready"]))
        assert vm.status()["workload"]["name"] == name
    vm.stop("harness", signal.SIGKILL)
    vm.configure(controller={"trust_anchors": "/nonexistent"})
    start(vm)
    vm.wait(lambda: "controller.trust_anchors" in vm.condition("Configuration").get("message", "") and vm.status()["ready"])
    vm.configure()
    reload(vm)
    vm.wait_ready()
    assert vm.condition("Configuration") == {}


def test_a_stop_in_good_order_ends_it(vm: Mesh) -> None:
    """What a machine was before an operator stopped it, a later start does not fall back to."""
    vm.start_controller()
    start(vm)
    vm.wait_ready()
    assert (vm.folder / "state/configuration.json").stat().st_mode & 0o777 == 0o600
    assert vm.stop("harness") == 0
    (vm.folder / "etc/harness.yaml").write_text(yaml.safe_dump({"workload": {"gruop": "face"}, "network": {"node": NODE}}))
    start(vm)
    waits(vm, "gruop")
