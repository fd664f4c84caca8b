"""How a proxy starts, or says why it does not: the development proxy and linkerd2-proxy alike."""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.children.mesh_lab import (
    Lab,
    mesh_fixture,  # noqa: F401 — a fixture
    spiffe,
)
from tests.waiting import wait
from tests.workload_api_support import REPOSITORY

pytestmark = pytest.mark.root


def test_ready_comes_with_the_certificate_and_soon(mesh: Lab) -> None:
    machine = mesh.machine("cli", start=False)
    machine.svids.close()
    machine.spawn(machine.environment("cli", mesh.anchors))
    wait(lambda: machine.admin("/live") == (200, "live\n"))
    assert machine.admin("/ready") == (503, "not ready\n")
    assert machine.metrics('refreshes_total{result="ok"} 0')
    assert machine.admin("/other")[0] == 404
    assert "stand-in for linkerd2-proxy" in machine.log.read_text().splitlines()[0]
    machine.svids = type(machine.svids)(mesh.folder / "again.sock")
    machine.svids.give(mesh.authority, "cli")
    (mesh.folder / "cli.sock").unlink(missing_ok=True)
    (mesh.folder / "cli.sock").symlink_to("again.sock")
    machine.until_ready()
    assert machine.stop() == 0


def test_it_is_started_again_and_again(mesh: Lab) -> None:
    """Ready within 250 ms each time where the SVID is there, on a machine that does nothing else."""
    machine, seconds = mesh.machine("cli", start=False), []
    for _ in range(5):
        began = time.monotonic()
        machine.spawn(machine.environment("cli", mesh.anchors))
        machine.until_ready()
        seconds.append(time.monotonic() - began)
        assert machine.stop() == 0
    print(f"start to ready: median {statistics.median(seconds):.2f} s")


GOOD = {
    "IDENTITY_SPIRE_WORKLOAD_API_ADDRESS": "unix:///nowhere/api.sock",
    "IDENTITY_SERVER_ID": spiffe("face"),
    "IDENTITY_SERVER_NAME": "face.cluster.local",
    "DESTINATION_SVC_ADDR": "127.0.0.1:1",
    "DESTINATION_SVC_NAME": "destination.example",
    "POLICY_SVC_ADDR": "127.0.0.1:1",
    "POLICY_SVC_NAME": "policy.example",
    "POLICY_WORKLOAD": '{"ns":"faces","external_workload":"face"}',
    "OUTBOUND_LISTEN_ADDRS": "127.0.0.1:4140",
    "UNKNOWN_TO_ALL": "x",
}


PROXIES = {
    "development": [sys.executable, "-s", "-m", "demo.proxy"],
    "linkerd2-proxy": [shutil.which("linkerd2-proxy") or ""],
}


@pytest.fixture(params=PROXIES)
def start(request: pytest.FixtureRequest, mesh: Lab) -> Iterator[object]:
    """Starts either proxy in a namespace; what follows must hold for both."""
    argv = PROXIES[request.param]
    if not argv[0]:
        pytest.skip("linkerd2-proxy is not on PATH")
    started: list[subprocess.Popen[str]] = []

    def begin(**variables: str | None) -> subprocess.Popen[str]:
        values = {"IDENTITY_TRUST_ANCHORS": mesh.anchors} | GOOD | variables
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
        environment |= {f"LINKERD2_PROXY_{name}": value for name, value in values.items() if value is not None}
        command = ["ip", "netns", "exec", mesh.cluster.name, *argv]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IDENTITY_SERVER_ID", "https://root.linkerd.cluster.local/face"),
        ("IDENTITY_SERVER_ID", None),
        ("IDENTITY_SERVER_NAME", "spiffe://root/face"),
        ("IDENTITY_TRUST_ANCHORS", ""),
        ("IDENTITY_TRUST_ANCHORS", None),
        ("IDENTITY_LOCAL_NAME", "face.example"),
        ("DESTINATION_SVC_ADDR", "http://127.0.0.1:1"),
        ("DESTINATION_SVC_ADDR", None),
        ("POLICY_WORKLOAD", None),
        ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140, [::1]:4140"),
        ("OUTBOUND_LISTEN_ADDRS", ""),
        ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140,127.0.0.1:4141,127.0.0.1:4142"),
        ("INBOUND_LISTEN_ADDR", "localhost:4143"),
        ("INBOUND_LISTEN_ADDR", "0.0.0.0"),
        ("ADMIN_LISTEN_ADDR", "4191"),
        ("SHUTDOWN_GRACE_PERIOD", "10"),
        ("SHUTDOWN_GRACE_PERIOD", "1.5s"),
        ("SHUTDOWN_GRACE_PERIOD", "10 s"),
        ("SHUTDOWN_GRACE_PERIOD", ""),
    ],
)
def test_bad_configuration_ends_with_64(start, name: str, value: str | None) -> None:  # type: ignore[no-untyped-def]
    process = start(**{name: value})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 64, (out, err)
    assert "Invalid configuration" in err
    if value:
        assert f"LINKERD2_PROXY_{name}" in out or "Spire support requires a SPIFFE TLS Id" in out


def test_unusable_anchors_end_with_1(start) -> None:  # type: ignore[no-untyped-def]
    process = start(IDENTITY_TRUST_ANCHORS="no certificate")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Initialization failure" in err


@pytest.mark.parametrize(("address", "code"), [("127.0.0.1:4140", 101), ("0.0.0.0:4143", 101), ("127.0.0.1:4191", 1)])
def test_a_taken_port(start, mesh: Lab, address: str, code: int) -> None:  # type: ignore[no-untyped-def]
    host, port = address.split(":")
    with mesh.cluster.call(lambda: socket.create_server((host, int(port)))):
        process = start()
        process.communicate(timeout=60)
    assert process.returncode == code
