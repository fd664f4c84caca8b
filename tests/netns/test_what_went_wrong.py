"""The failures that people meet most, for real: the status says what was tried, what came back, for how long, and what to do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.daemon_support import started
from tests.mesh import NODE, VM, Mesh, mesh

PORT = 8000
URL = f"http://{VM}:{PORT}/ready"
SS = f"`ss -ltnp 'sport = :{PORT}'`"
ERROR_500 = f"""
import http.server
class Fails(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
http.server.HTTPServer(("", {PORT}), Fails).serve_forever()
"""
SLOW = f"""
import socket, time
listener = socket.create_server(("", {PORT}))
time.sleep(3600)
"""
ELSEWHERE = f"""
import socket, time
listener = socket.create_server(("", {PORT + 1}))
time.sleep(3600)
"""
LOOPBACK = f"""
import socket
listener = socket.create_server(("127.0.0.1", {PORT}))
while True:
    listener.accept()[0].close()
"""
TLS = f"""
import os, socket, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.environ["CERTS"] + "/controller.crt", os.environ["CERTS"] + "/controller.key")
listener = socket.create_server(("", {PORT}))
while True:
    made, _ = listener.accept()
    try:
        context.wrap_socket(made, server_side=True)
    except OSError:
        made.close()
"""
FAILURES = {
    "down": ("", URL, "connection refused", "is it listening?"),
    "on another port": (ELSEWHERE, URL, "connection refused", "is it listening?"),
    "an error": (ERROR_500, URL, "HTTP 500", "the application's own log says why"),
    "slow": (SLOW, URL, "no answer within 1 s", "it does not answer in time"),
    "with TLS": (TLS, URL, "(?:connection reset by peer|it closed the connection.*)", "does it speak TLS?"),
    "without TLS": (
        ERROR_500,
        URL.replace("http", "https"),
        r"it speaks no TLS that is understood \(.*\)",
        "does it speak plain",
    ),
}


@pytest.fixture(name="vm", scope="module")
def vm_fixture() -> Iterator[Mesh]:
    with mesh() as vm:
        vm.group(probes=[probe("HTTP")])
        started(vm)
        yield vm


def probe(scheme: str) -> dict[str, object]:
    get = {"port": PORT, "path": "/ready", "scheme": scheme}
    return {"httpGet": get, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1}


@contextlib.contextmanager
def application(vm: Mesh, script: str) -> Iterator[None]:
    if not script:
        yield
        return
    environment = {**os.environ, "CERTS": f"{vm.folder}/certs"}
    with subprocess.Popen([*vm.vm.enter, sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def shown(vm: Mesh, part: str) -> list[str]:
    """The lines of that part in `meshexp status`; empty ones before the daemon tells of it."""
    lines = vm.meshexp("status").stdout.splitlines()
    at = next((index for index, line in enumerate(lines) if line[2:].startswith(part)), len(lines))
    return [*lines, "", ""][at : at + 2]


@pytest.mark.parametrize("name", FAILURES)
def test_an_application_that_fails(vm: Mesh, name: str) -> None:
    script, url, came, todo = FAILURES[name]
    vm.group(probes=[probe(url.partition(":")[0].upper())])
    sentence = re.compile(rf"× Application +GET {url}: {came} \(probe 1 of 1, (\d+) failures?, for \d+ (s|min)\)")
    with application(vm, script):
        vm.wait(lambda: sentence.fullmatch(shown(vm, "Application")[0]) is not None)
        before = sentence.fullmatch(shown(vm, "Application")[0])
        vm.wait(lambda: _failures(sentence, vm) > int(before[1]) if before else True)
        hint = shown(vm, "Application")[1].strip()
        # What peers and `kubectl` are told does not change with each check.
        vm.wait(lambda: re.fullmatch(rf"GET {url}: {came}", vm.condition("Application")["message"]) is not None)
        # Once the proxy has its certificate, this is why peers send nothing.
        vm.wait(lambda: re.fullmatch(rf"GET {url}: {came}", vm.status()["message"]) is not None)
    assert hint.startswith(f"probe-failed: {todo}") and SS in hint


def _failures(sentence: re.Pattern[str], vm: Mesh) -> int:
    found = sentence.fullmatch(shown(vm, "Application")[0])
    return int(found[1]) if found else 0


def test_when_it_is_well_again_the_log_says_for_how_long_it_was_not(vm: Mesh) -> None:
    vm.group(probes=[])
    vm.wait_ready()
    lines = [json.loads(line) for line in (vm.folder / "harness.log").read_text().splitlines()]
    said = [line for line in lines if line["msg"] == "condition Application"]
    assert any(line.get("hint", "").endswith("`meshexp explain probe-failed`") for line in said)
    assert any(re.fullmatch(r"probe-failed for \d+ (s|min)", line.get("before", "")) for line in said)


def test_an_application_that_peers_do_not_reach(vm: Mesh) -> None:
    """Its probe passes, since the group asks it to look where the application is."""
    check = {"tcpSocket": {"port": PORT, "host": "127.0.0.1"}, "periodSeconds": 1, "failureThreshold": 1}
    with application(vm, LOOPBACK):
        vm.group(probes=[check])
        vm.wait_problem("Application", "application-elsewhere")
        assert f"port {PORT} listens on 127.0.0.1 only" in vm.condition("Application")["message"]
        vm.wait(lambda: not vm.status()["ready"])
        assert "application-elsewhere" in vm.meshexp("check", "-o", "json").stdout
    vm.group(probes=[])
    vm.wait_ready()


def test_a_controller_that_is_down_and_one_that_packets_do_not_reach(vm: Mesh) -> None:
    call = rf"(GET|POST) https://{NODE}:8081/v1/workloads\S*"
    vm.stop("controller")
    vm.wait(lambda: bool(re.search(rf"{call}: connection refused", vm.condition("Registration")["message"])))
    vm.start_controller()
    vm.wait_ready()
    vm.vm.run("nft", "add table inet cut; add chain inet cut out { type filter hook output priority 0; }")
    vm.vm.run("nft", "add rule inet cut out tcp dport 8081 drop")
    try:
        vm.wait(lambda: bool(re.search(rf"{call}: no (connection|answer) within", vm.condition("Registration")["message"])))
        told, hint = shown(vm, "Registration")
        assert re.search(r"\(.*for \d+ s\)$", told)
        assert f"{NODE}:8081" in hint and "`meshexp check`" in hint
    finally:
        vm.vm.run("nft", "delete table inet cut")
    vm.wait_ready()
    codes = vm.meshexp("status").stdout
    assert "tells more" not in codes, "nothing is wrong"


def test_the_codes_that_status_names_can_be_given_to_explain(vm: Mesh) -> None:
    assert vm.meshexp("cordon", "--reason", "new disks").returncode == 0
    try:
        line = next(line for line in vm.meshexp("status").stdout.splitlines() if line.startswith("tells more"))
        program, *words = line.partition("`")[2].strip("`").split()
        assert program == "meshexp" and words == ["explain", "cordoned"]
        assert vm.meshexp(*words).stdout.startswith("cordoned\n")
    finally:
        vm.meshexp("uncordon")
