"""The daemon's metrics as Prometheus and node_exporter get them, of a machine to which things happen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from harness import metrics_text
from tests import exposition
from tests.exposition import Metrics
from tests.mesh import VM, Mesh, mesh
from tests.namespaces import Namespace

ASK = "import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen(sys.argv[1], timeout=5).read())"


def get(where: Namespace, url: str = "http://127.0.0.1:4192/metrics") -> str:
    argv = [*where.enter, sys.executable, "-s", "-c", ASK, url]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout


def scrape(vm: Mesh) -> Metrics:
    return exposition.read(get(vm.vm))


def wait(vm: Mesh, name: str, least: float, **labels: str) -> None:
    vm.wait(lambda: (scrape(vm).value(name, **labels) or 0) >= least)


@pytest.fixture(scope="module")
def vm() -> Iterator[Mesh]:
    with mesh() as found:
        found.configure(metrics={"textfile": str(found.folder / "textfile" / "meshexp.prom")})
        found.group(probes=[{"tcpSocket": {"host": "127.0.0.1", "port": 4191}, "periodSeconds": 1}])
        found.start_controller()
        found.start_daemon()
        found.wait_ready()
        yield found


def test_every_family_is_there_and_none_besides(vm: Mesh) -> None:
    assert vm.meshexp("cordon", "--reason", 'a "new" disk').returncode == 0
    vm.wait(lambda: bool(vm.condition("Cordoned")))
    wait(vm, "meshexp_controller_call_duration_seconds_count", 2, call="state")
    text = get(vm.vm)
    assert vm.meshexp("uncordon").returncode == 0
    exposition.lint(text)
    found = exposition.read(text)
    assert {name: kind for name, (kind, _) in metrics_text.FAMILIES.items()} == found.families
    assert found.value("meshexp_problem", problem="cordoned", severity="warning") == 1


def test_what_they_say_of_a_machine_that_is_well(vm: Mesh) -> None:
    vm.wait_ready()
    wait(vm, "meshexp_ready", 1)
    found, now = scrape(vm), time.time()
    assert found.value("meshexp_phase", phase="Ready") == 1
    assert found.value("meshexp_phase", phase="Degraded") == 0
    assert 0.1 < (found.value("meshexp_join_duration_seconds") or 0) < 120
    assert now - 120 < (found.value("meshexp_start_time_seconds") or 0) < now
    assert found.value("meshexp_condition", condition="Redirected", status="true") == 1
    assert found.value("meshexp_condition", condition="Redirected", status="false") == 0
    assert found.value("meshexp_child_up", child="proxy") == 1
    for name in ("svid", "proxy"):
        end = found.value("meshexp_certificate_expiry_timestamp_seconds", certificate=name)
        assert end is not None and 3000 < end - now <= 3660
    wait(vm, "meshexp_probe_checks_total", 1, probe="tcp :4191", result="passed")
    assert scrape(vm).value("meshexp_probe_passing", probe="tcp :4191") == 1
    assert found.value("meshexp_controller_call_duration_seconds_count", call="register") == 1
    seconds = found.value("meshexp_controller_call_duration_seconds_sum", call="register")
    assert seconds is not None and 0 < seconds < 60
    assert now - 120 < (found.value("meshexp_controller_last_answer_timestamp_seconds") or 0) <= now
    assert found.value("meshexp_repairs_total", part="redirect") == 0


def test_repairs_and_restarts_count(vm: Mesh) -> None:
    subprocess.run([*vm.vm.enter, "nft", "delete", "table", "inet", "meshexp"], check=True)
    wait(vm, "meshexp_repairs_total", 1, part="redirect")
    vm.wait_ready()
    os.kill(vm.status()["children"]["proxy"]["pid"], signal.SIGKILL)
    wait(vm, "meshexp_child_restarts_total", 1, child="proxy")
    vm.wait_ready()
    wait(vm, "meshexp_ready", 1)
    found = scrape(vm)
    assert found.value("meshexp_child_restarts_total", child="proxy") == 1
    assert found.value("meshexp_repairs_total", part="redirect") == 1


def test_only_get_metrics_and_only_here(vm: Mesh) -> None:
    for path in ("", "/status.json", "/metrics/x"):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            get(vm.vm, f"http://127.0.0.1:4192/{path.lstrip('/')}")
        assert "404" in caught.value.stderr
    with pytest.raises(subprocess.CalledProcessError) as caught:
        get(vm.vm, f"http://{VM}:4192/metrics")
    assert "refused" in caught.value.stderr


def test_nonsense_and_slowness_cost_nothing(vm: Mesh) -> None:
    code = (
        "import socket\n"
        "idle = [socket.create_connection(('127.0.0.1', 4192)) for _ in range(50)]\n"
        "for s in idle: s.settimeout(4)  # the server waits 5 s for a request\n"
        "for s in idle[8:]: assert s.recv(1) == b'', 'more than the bound are served'\n"
        "for s in idle: s.close()\n"
        "s = socket.create_connection(('127.0.0.1', 4192), 30)\n"
        "try:\n s.sendall(b'x' * 1_000_000)\n assert s.recv(1) == b''\nexcept ConnectionError: pass\n"
    )
    subprocess.run([*vm.vm.enter, sys.executable, "-s", "-c", code], check=True, timeout=60)
    vm.wait(lambda: bool(get(vm.vm)))
    assert vm.processes["harness"].poll() is None


def test_the_textfile_follows_and_goes_with_the_daemon(vm: Mesh) -> None:
    file = vm.folder / "textfile" / "meshexp.prom"
    assert file.stat().st_mode & 0o777 == 0o644
    assert exposition.read(file.read_text()).families == scrape(vm).families
    assert [path.name for path in file.parent.iterdir()] == ["meshexp.prom"]
    other = vm.folder / "textfile" / "other.prom"
    vm.configure(metrics={"textfile": str(other), "listen": f"{VM}:4199"})
    vm.processes["harness"].send_signal(signal.SIGHUP)
    vm.wait(lambda: other.exists() and not file.exists())
    assert "meshexp_ready" in get(vm.vm, f"http://{VM}:4199/metrics")
    with pytest.raises(subprocess.CalledProcessError):
        get(vm.vm)
    rules = vm.meshexp("redirect", "show").stdout
    assert vm.stop("harness") == 0
    assert not other.exists()
    assert "4199" in rules, "an inbound redirect of all ports would take the scrapes"


def test_a_port_that_is_taken_is_named_and_hinders_nothing() -> None:
    """And is taken over as soon as it is free."""
    with mesh() as found:
        hold = "import socket, time; s = socket.create_server(('127.0.0.1', 4192)); time.sleep(60)"
        holder = found.start("holder", found.vm, sys.executable, "-s", "-c", hold)
        found.start_controller()
        found.start_daemon()
        found.wait_problem("Metrics", "metrics-not-exported")
        found.wait_ready()
        holder.kill()
        holder.wait()
        found.processes["harness"].send_signal(signal.SIGHUP)
        found.wait(lambda: not found.condition("Metrics"))
        assert scrape(found).value("meshexp_phase", phase="Ready") == 1
