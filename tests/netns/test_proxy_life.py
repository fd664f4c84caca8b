"""The proxy is killed at each moment of its life, and its binary is replaced under it: Ready again or a clean stop, and in
between nothing leaves the machine beside the proxy. On linkerd2-proxy where it is on PATH, else on the development proxy."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.proxy_release import parse
from harness.system import process, proxy_store
from tests.mesh import Mesh, mesh, on_path
from tests.namespaces import Namespace

pytestmark = pytest.mark.root
APP_UID, POD = 2105, "10.42.0.10"
# What an application sends to a pod past the redirect: after it the destination is the proxy on loopback.
WATCH = f"""
table inet watch {{
  counter beside {{ }}
  chain sent {{
    type filter hook output priority 0
    meta skuid {APP_UID} ip daddr {POD} counter name beside
  }}
}}
"""
CALLS = f"""
import socket, time
while True:
    try:
        socket.create_connection(({POD!r}, 9000), 0.1).close()
    except OSError:
        pass
    time.sleep(0.005)
"""


def beside(where: Namespace) -> int:
    found = json.loads(where.run("nft", "-j", "reset", "counter", "inet", "watch", "beside"))
    return int(next(one["counter"]["packets"] for one in found["nftables"] if "counter" in one))


@pytest.fixture(scope="module")
def node() -> Iterator[Mesh]:
    """With its controller, and a machine that is watched; the harness is not started."""
    with mesh(proxy={"path": on_path("linkerd2-proxy")} if on_path("linkerd2-proxy") else {}) as found:
        found.start_controller()
        rules = found.folder / "watch.nft"
        rules.write_text(WATCH)
        found.vm.run("nft", "-f", str(rules))
        yield found


@pytest.fixture
def vm(node: Mesh) -> Iterator[Mesh]:
    """Begins: the proxy has been started for the first time, or is about to be."""
    node.start_daemon()
    yield node
    if node.processes["harness"].poll() is None:
        assert node.stop("harness") == 0


def started(vm: Mesh, other_than: int = 0) -> int:
    """The pid of the proxy that was just started, by the record that `cleanup` goes by."""
    record, found = vm.folder / "run" / "children" / "proxy.json", 0

    def there() -> bool:
        nonlocal found
        try:
            found = int(json.loads(record.read_text())["pid"])
        except (OSError, ValueError):
            return False
        return found != other_than and process.start_time(found) is not None

    vm.wait(there, 30)
    return found


def certified(vm: Mesh) -> bool:
    metrics = vm.vm.run("curl", "-sS", "-m2", "http://127.0.0.1:4191/metrics", check=False)
    return "\ncontrol_identity_cert_expiration_timestamp_seconds" in metrics


def said(vm: Mesh, text: str, after: int = 0) -> bool:
    return text in (vm.folder / "harness.log").read_text()[after:]


def logged(vm: Mesh) -> int:
    return len((vm.folder / "harness.log").read_text())


def table(vm: Mesh) -> bool:
    return "table inet meshexp" in vm.vm.run("nft", "list", "tables")


@pytest.mark.parametrize("moment", ["before its certificate", "before the harness knows of it", "while the redirect is put in"])
def test_killed_on_the_way_up(vm: Mesh, moment: str) -> None:
    harness, began = vm.processes["harness"].pid, logged(vm)
    proxy = started(vm)
    if moment == "before the harness knows of it":
        os.kill(harness, signal.SIGSTOP)
        vm.wait(lambda: certified(vm))
    elif moment == "while the redirect is put in":
        vm.wait(lambda: said(vm, "# redirect by", began))
    else:
        assert not table(vm)
    os.kill(proxy, signal.SIGKILL)
    os.kill(harness, signal.SIGCONT)
    again = started(vm, proxy)
    vm.wait_ready()
    assert vm.status()["children"]["proxy"]["pid"] == again
    assert table(vm)


def test_killed_when_it_serves_when_it_is_restarted_and_when_it_drains(vm: Mesh) -> None:
    vm.wait_ready()
    beside(vm.vm)
    calls = vm.start("calls", vm.vm, "setpriv", f"--reuid={APP_UID}", "--clear-groups", sys.executable, "-c", CALLS)
    try:
        first = started(vm)
        os.kill(first, signal.SIGKILL)
        second = started(vm, first)
        vm.wait(lambda: vm.status()["children"]["proxy"]["pid"] == second)
        vm.wait_ready()

        began = logged(vm)
        os.kill(second, signal.SIGSTOP)  # so that it does not end by itself before it is killed
        os.kill(vm.processes["harness"].pid, signal.SIGUSR1)  # as `meshexp proxy restart` does
        vm.wait(lambda: said(vm, "stop the proxy", began))
        os.kill(second, signal.SIGKILL)
        third = started(vm, second)
        vm.wait(lambda: vm.status()["children"]["proxy"]["pid"] == third)
        vm.wait_ready()
        assert beside(vm.vm) == 0, "closed all the while"
    finally:
        calls.kill()
        calls.wait()

    began = logged(vm)
    os.kill(third, signal.SIGSTOP)
    vm.processes["harness"].send_signal(signal.SIGTERM)
    vm.wait(lambda: said(vm, "stop the proxy", began))
    held = vm.vm.run("nft", "list", "table", "inet", "meshexp")
    assert ":1 " in f"{held} " and ":4140" not in held, "the hold takes the redirect's place before the proxy goes"
    os.kill(third, signal.SIGKILL)
    assert vm.processes["harness"].wait(60) == 0
    assert process.start_time(third) is None


def test_the_watch_sees_what_goes_beside_the_proxy(node: Mesh) -> None:
    node.vm.run("ip", "route", "replace", f"{POD}/32", "dev", "lo")
    try:
        beside(node.vm)
        once = f"import socket; s = socket.socket(); s.settimeout(0.1); s.connect_ex(({POD!r}, 9000))"
        node.vm.run("setpriv", f"--reuid={APP_UID}", "--clear-groups", sys.executable, "-c", once)
        assert beside(node.vm) > 0
    finally:
        node.vm.run("ip", "route", "del", f"{POD}/32", "dev", "lo")


def program(vm: Mesh, text: str = "") -> str:
    """A wrapper of this run's proxy; another `text` is another file."""
    return f"#!/bin/sh\n# {text}\nexec {on_path('linkerd2-proxy') or vm.folder / 'development-proxy'}\n"


def put(vm: Mesh, version: str) -> Path:
    """An installed version, as `meshexp proxy install` leaves it. The first one is in use."""
    store = proxy_store.Store(vm.folder / "state" / "proxy")
    with store.stage() as folder:
        (folder / "linkerd2-proxy").write_text(program(vm, version))
        proxy_store.open_to_all(folder)
        store.commit(folder, parse(version), "a test")
    return store.binary(parse(version))


def test_its_binary_is_replaced(node: Mesh) -> None:
    """It runs on, `status` names it, and the next start takes the new one, whoever asks for it."""
    old, new = put(node, "2.331.0"), put(node, "2.366.0")
    node.configure(proxy={"path": None})
    node.start_daemon()

    def look(problem: str | None) -> None:
        node.processes["harness"].send_signal(signal.SIGUSR2)  # the timer would be one within 15 s
        node.wait_problem("Proxy", problem)

    node.wait_ready()
    first = node.status()["children"]["proxy"]["pid"]
    fresh = old.with_name("fresh")
    fresh.write_text(program(node, "another build"))
    fresh.chmod(0o755)
    fresh.rename(old)
    look("proxy-replaced")
    status = node.status()
    assert (status["phase"], status["children"]["proxy"]["pid"]) == ("Ready", first)
    assert "as it was before" in node.condition("Proxy")["message"]
    os.kill(first, signal.SIGKILL)
    node.wait_problem("Proxy", None)
    node.wait_ready()
    assert node.status()["proxy_version"] == "2.331.0"

    assert node.meshexp("proxy", "use", "2.366.0").returncode == 0
    look("proxy-replaced")
    assert f"before {new} came into use" in node.condition("Proxy")["message"]
    assert node.status()["proxy_version"] == "2.331.0"
    assert node.meshexp("proxy", "restart").returncode == 0
    node.wait_problem("Proxy", None)
    assert node.status()["proxy_version"] == "2.366.0"
    assert node.stop("harness") == 0
