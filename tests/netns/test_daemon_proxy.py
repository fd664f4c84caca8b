"""The real daemon's proxy, the development one: it cannot start, hangs, is restarted by hand, ends what is under way."""

from __future__ import annotations

import sys
import time

import pytest

from tests.daemon_support import (
    ruleset,
    started,
    vm_fixture,  # noqa: F401
)
from tests.mesh import VM, Mesh


@pytest.mark.parametrize("port", [4140, 4143, 4191])
def test_a_port_that_is_taken(vm: Mesh, port: int) -> None:
    script = "import socket, sys; s = socket.create_server(('', int(sys.argv[1]))); print('up', flush=True); s.accept()"
    listener = vm.vm.start(sys.executable, "-c", script, str(port))
    assert listener.stdout is not None
    listener.stdout.readline()
    try:
        started(vm).wait_problem("Proxy", "proxy-port-taken")
        assert str(port) in vm.condition("Proxy")["message"]
        assert "table inet meshexp" not in ruleset(vm)
    finally:
        listener.kill()
        listener.wait()
        listener.stdout.close()
    vm.wait_ready()


def proxy_script(vm: Mesh, script: str) -> str:
    path = vm.folder / "proxy.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_proxy_that_exits_at_once(vm: Mesh) -> None:
    vm.configure(proxy={"path": proxy_script(vm, "echo no luck >&2; exit 64")})
    started(vm).wait_problem("Proxy", "proxy-crash-loop")
    vm.wait(lambda: "exited 3 times" in vm.condition("Proxy")["message"])
    assert "status 64" in vm.condition("Proxy")["message"]
    assert "no luck" in (vm.folder / "harness.log").read_text()
    assert "table inet meshexp" not in ruleset(vm)


def test_a_proxy_that_hangs_at_its_start_is_started_again(vm: Mesh) -> None:
    vm.configure(proxy={"path": proxy_script(vm, "echo hangs; exec sleep 1000"), "start_timeout": "1s"})
    started(vm).wait(lambda: (vm.folder / "harness.log").read_text().count('"msg": "hangs"') >= 2)
    assert "no certificate in time" in (vm.folder / "harness.log").read_text()
    assert "table inet meshexp" not in ruleset(vm)


def test_a_proxy_that_ignores_sigterm_does_not_hold_the_stop(vm: Mesh) -> None:
    vm.configure(
        proxy={"path": proxy_script(vm, f"trap '' TERM; {vm.folder}/development-proxy & while :; do wait; sleep 1; done")}
    )
    started(vm).wait_ready()
    began = time.monotonic()
    assert vm.stop("harness") == 0
    assert time.monotonic() - began < 60
    assert "table inet meshexp" not in ruleset(vm)


def test_the_proxy_is_restarted_by_hand_and_its_peers_are_told_first(vm: Mesh) -> None:
    started(vm).wait_ready()
    pid = vm.status()["children"]["proxy"]["pid"]
    result = vm.meshexp("proxy", "restart")
    assert result.returncode == 0, result.stderr
    assert vm.status()["children"]["proxy"]["pid"] != pid
    assert [line["reason"] for line in vm.events("readiness changed")] == ["Ready", "Restarting", "Ready"]
    log = (vm.folder / "harness.log").read_text()
    assert log.index("first no new traffic") < log.index("draining for up to")
    assert "table inet meshexp" in ruleset(vm)


def test_variables_of_the_proxy_set_by_hand_are_passed_on_with_a_warning(vm: Mesh) -> None:
    vm.configure(proxy={"env": {"LINKERD2_PROXY_LOG": "debug"}})
    started(vm).wait_problem("Proxy", "proxy-env-overridden")
    assert "LINKERD2_PROXY_LOG set by hand" in vm.condition("Proxy")["message"]
    vm.configure(proxy={"env": {"LD_PRELOAD": "x"}})
    assert "proxy.env.LD_PRELOAD" in vm.meshexp("config", "check").stderr


_SLOW = """
import http.server, time
class Slow(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(2)
        self.send_response(200); self.send_header("Content-Length", "4"); self.end_headers(); self.wfile.write(b"done")
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Slow).serve_forever()
"""


def test_a_stop_lets_a_request_end_that_is_under_way(vm: Mesh) -> None:
    vm.configure(proxy={"shutdown_grace": "10s"})
    vm.start("application", vm.vm, sys.executable, "-c", _SLOW)
    started(vm).wait_ready()
    with vm.node.start("curl", "-sS", "-m", "10", f"http://{VM}:8000/") as client:
        vm.wait(lambda: ":4143" in vm.vm.run("ss", "-tnH", "state", "established"))
        assert vm.stop("harness") == 0
        output, _ = client.communicate()
    assert output == "done"
