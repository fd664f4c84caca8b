"""With `on_proxy_loss: closed` a member sends the mesh no plaintext: not at a start, a stop, a crash or a restart."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench import kills
from tests import redirect_support as support
from tests.mesh import Mesh, mesh

pytestmark = support.needs_root
ROUNDS = 10
REFUSED = f"""
import socket, sys
try:
    socket.create_connection(({kills.POD!r}, 9000), 2).sendall({kills.WORD!r}.encode())
except OSError as error:
    print(type(error).__name__)
else:
    print("connected")
"""


@pytest.fixture
def vm() -> Iterator[Mesh]:
    with mesh() as found:
        found.start_controller()
        yield found


def start(vm: Mesh) -> None:
    vm.start_daemon()
    vm.wait_ready()


def call(vm: Mesh) -> str:
    return vm.vm.run("setpriv", f"--reuid={kills.APP_UID}", "--clear-groups", sys.executable, "-c", REFUSED).strip()


def no_proxy(vm: Mesh) -> None:
    (vm.folder / "development-proxy").rename(vm.folder / "proxy-away")


def restarted(vm: Mesh) -> None:
    """A daemon that runs, and has nothing more to do for now."""
    old = vm.status().get("pid")
    vm.start_daemon()
    vm.wait(lambda: vm.status().get("pid") not in (None, old) and vm.status()["counters"]["cycles"] >= 4)


def shown(vm: Mesh) -> str:
    return vm.meshexp("redirect", "show").stdout


def test_kills_and_restarts_send_no_plaintext(vm: Mesh) -> None:
    start(vm)
    kills.program(vm)
    seen = kills.kill_rounds(vm, ROUNDS)
    print(seen)
    assert seen["frames"] > 0
    assert (seen["plaintext"], seen["attempts"]) == (0, 0)


def test_a_start_without_a_proxy_and_without_rules_holds(vm: Mesh) -> None:
    """As after a boot: the kernel has neither rules nor routes."""
    start(vm)
    assert json.loads((vm.folder / "state" / "member.json").read_text())["networks"]
    kills.program(vm)
    wire = kills.Wire(vm)
    pid = vm.proxy_pid()
    vm.stop("harness", signal.SIGKILL)
    vm.vm.run("sh", "-c", f"kill -9 {pid}; ip route flush proto 77; nft flush ruleset")
    no_proxy(vm)
    for left in (vm.folder / "run").glob("*.json"):
        left.unlink()
    assert "hold first: held" in vm.meshexp("plan").stdout
    restarted(vm)
    vm.wait(lambda: "10.42.0.0/24" in vm.vm.run("ip", "route"))
    assert call(vm) == "ConnectionRefusedError"
    assert "are refused until the proxy can take them" in vm.condition("Redirected")["message"]
    assert "→ refused" in shown(vm)
    seen = wire.seen()
    wire.close()
    assert (seen["plaintext"], seen["attempts"]) == (0, 0)
    (vm.folder / "proxy-away").rename(vm.folder / "development-proxy")
    vm.wait_ready()
    assert "→ 4140" in shown(vm) and "→ refused" not in shown(vm)


def test_a_first_join_cuts_nothing(vm: Mesh) -> None:
    """The network may be reached without our routes, and programs use it."""
    no_proxy(vm)
    vm.vm.run("ip", "route", "add", "default", "via", "10.9.0.1")
    kills.program(vm)
    restarted(vm)
    assert call(vm) == "connected"
    assert shown(vm) == ""


def test_open_never_holds(vm: Mesh) -> None:
    vm.configure(redirect={"on_proxy_loss": "open"})
    start(vm)
    assert not (vm.folder / "state" / "member.json").exists()
    assert vm.stop("harness") == 0
    no_proxy(vm)
    restarted(vm)
    assert shown(vm) == ""


class Recorder:
    """What the kernel says of rules and routes, in its order."""

    def __init__(self, vm: Mesh) -> None:
        self._log = vm.folder / "kernel.log"
        with self._log.open("wb") as log:
            argv = ["sh", "-c", "nft monitor & ip monitor route & wait"]
            self._process = subprocess.Popen([*vm.vm.enter, *argv], stdout=log, start_new_session=True)
        self._vm = vm
        vm.wait(self._listens)

    def _listens(self) -> bool:
        """Both monitors have told of what is changed here."""
        changes = "nft add table inet other; nft delete table inet other; ip route add 192.0.2.77 dev lo; ip route del 192.0.2.77"
        self._vm.vm.run("sh", "-ec", changes)
        return all(text in self._log.read_text() for text in ("table inet other", "192.0.2.77"))

    def lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    def first(self, *words: str) -> int:
        return next(number for number, line in enumerate(self.lines()) if all(word in line for word in words))

    def last(self, text: str) -> int:
        return max(number for number, line in enumerate(self.lines()) if text in line)

    def close(self) -> None:
        subprocess.run(["kill", "-9", "--", f"-{self._process.pid}"], check=False)
        self._process.wait()


ROUTE = "10.42.0.0/24 via 10.9.0.1"


@pytest.mark.parametrize("by", ["daemon", "cleanup"])
def test_at_a_stop_the_routes_go_before_the_hold(vm: Mesh, by: str) -> None:
    start(vm)
    recorder = Recorder(vm)
    if by == "daemon":
        assert vm.stop("harness") == 0
    else:
        vm.stop("harness", signal.SIGKILL)
        assert vm.meshexp("cleanup").returncode == 0
    vm.wait(lambda: recorder.last("delete table inet meshexp") > recorder.first("add rule", "redirect to :1 "))
    held = recorder.first("add rule", "redirect to :1 ")
    gone = recorder.first("Deleted", ROUTE)
    last = recorder.last("delete table inet meshexp")
    recorder.close()
    assert held < gone < last
    assert not (vm.folder / "state" / "member.json").exists(), "an operator ended the membership"
    assert "meshexp" not in vm.vm.run("nft", "list", "ruleset")


def test_at_a_start_of_a_member_the_hold_comes_before_the_routes(vm: Mesh) -> None:
    start(vm)
    vm.stop("harness", signal.SIGKILL)
    assert vm.proxy_pid()
    marker = (vm.folder / "state" / "member.json").read_text()
    assert vm.meshexp("cleanup").returncode == 0
    (vm.folder / "state" / "member.json").write_text(marker)
    recorder = Recorder(vm)
    start(vm)
    held = recorder.first("add rule", "redirect to :1 ")
    route = recorder.first(ROUTE)
    redirect = recorder.first("add rule", "redirect to :4140")
    recorder.close()
    assert held < route < redirect
