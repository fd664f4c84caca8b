"""The unit on real systemd: crashes, hangs, long stops, boots, its sandbox and its log.

One machine, on which the package was before its first boot: each test finds it ready, and undoes what it writes to /etc.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time

from tests import exposition
from tests.mesh import VM
from tests.package.instance import API, API_PROXY, API_USER, add_api, api_phase
from tests.package.machine import PODS, PROXY, UNIT, Machine, uid_of
from tests.package.member import COLLECTED, drop_in, faulty

CAPABILITIES = {"kill": 5, "setgid": 6, "setuid": 7, "setpcap": 8, "net_admin": 12, "net_raw": 13}  # linux/capability.h


def test_sandbox(vm: Machine) -> None:
    """On the unit with which the tests below pass."""
    exposure = vm.run("systemd-analyze", "security", "--no-pager", "--threshold=30", UNIT)
    assert "OK" in exposure.splitlines()[-1]
    assert vm.run("systemd-analyze", "verify", "--man=yes", UNIT) == ""
    status = vm.file(f"/proc/{vm.pid()}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    kept = sum(1 << bit for bit in CAPABILITIES.values())
    assert {int(found, 16) for found in re.findall(r"Cap(?:Bnd|Prm|Eff):\t(\w+)", status)} == {kept}
    assert re.search(r"CapAmb:\t0+$", status, re.MULTILINE)
    proxy = vm.file(f"/proc/{vm.pid(PROXY)}/status").read_text()
    assert re.search(r"CapBnd:\t0+$", proxy, re.MULTILINE) and "Seccomp:\t2" in proxy
    assert f"Uid:\t{uid_of(vm, 'meshexp-proxy')}\t" in proxy


def test_metrics_for_node_exporter(vm: Machine) -> None:
    """Through the sandbox, whole, and readable for the collector's own user."""
    file = vm.file(f"{COLLECTED}/meshexp.prom")
    vm.wait(lambda: file.exists() and exposition.read(file.read_text()).value("meshexp_ready") == 1)
    assert file.stat().st_mode & 0o777 == 0o644 and list(file.parent.iterdir()) == [file]


def test_the_proxys_limits_are_an_administrators(vm: Machine) -> None:
    limits = {"MemoryMax": str(300 << 20), "CPUQuotaPerSecUSec": "1.500000s"}
    assert vm.show(*limits, unit=PROXY) == limits


def test_a_probe_by_a_command(vm: Machine) -> None:
    """From within that sandbox, as nobody."""
    asked = {"periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1}
    vm.mesh.group(probes=[{"exec": {"name": "well"}, **asked}])
    vm.wait(lambda: "/bin/sh ended with status 3: nobody is not well" in vm.condition("Application").get("message", ""))
    assert vm.status()["reason"] == "ProbeFailed"
    vm.file("/opt/well").touch()
    vm.wait_ready()
    vm.mesh.group(probes=[{"exec": {"name": "other"}, **asked}])
    vm.wait(lambda: "allows no command of that name" in vm.condition("Application").get("message", ""))
    vm.mesh.group()
    vm.wait_ready()


def test_the_comment_has_a_reason_for_each_capability_and_for_no_other(vm: Machine) -> None:
    text = vm.run("systemctl", "cat", UNIT)
    kept = re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)
    assert kept == [" ".join(kept[0].split())] and {f"CAP_{name.upper()}" for name in CAPABILITIES} == set(kept[0].split())
    assert set(re.findall(r"^#     ([A-Z_]+)  ", text, re.MULTILINE)) == {name.upper() for name in CAPABILITIES}


def test_a_crash_is_not_noticed(vm: Machine) -> None:
    proxy = vm.pid(PROXY)
    with vm.traffic():
        vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
        vm.wait(lambda: vm.show("NRestarts")["NRestarts"] == "1" and vm.show("ActiveState")["ActiveState"] == "active")
        vm.wait_ready()
    assert vm.pid(PROXY) == proxy, "the proxy lived through the crash"


def test_a_restart_on_a_machine_without_a_d_bus_daemon_is_not_noticed(vm: Machine) -> None:
    """A minimal Debian has systemd and no dbus: nothing answers at its socket."""
    proxy, daemon = vm.pid(PROXY), vm.pid()
    vm.run("mv", "/run/dbus/system_bus_socket", "/run/dbus/moved")
    try:
        with vm.traffic():
            vm.run("systemctl", "restart", UNIT)
            vm.wait(lambda: vm.pid() not in (0, daemon))
            vm.wait_ready()
        assert vm.pid(PROXY) == proxy
        vm.run("systemctl", "stop", UNIT)
        assert vm.pid(PROXY) == 0, "a stop is told from a restart"
    finally:
        vm.run("mv", "/run/dbus/moved", "/run/dbus/system_bus_socket")


def test_a_bug_is_not_noticed(vm: Machine) -> None:
    """The daemon ends by it and touches nothing; the next one takes all over, and goes on when it meets the bug too."""
    fault = faulty(vm, "routes-diff")
    proxy, rules, routes = vm.pid(PROXY), vm.run("nft", "list", "ruleset"), vm.run("ip", "route")
    with vm.traffic():
        fault.touch()
        vm.wake()
        vm.wait(lambda: vm.show("NRestarts")["NRestarts"] == "1" and vm.show("ActiveState")["ActiveState"] == "active")
        vm.wait(lambda: "routes failed" in vm.condition("Program").get("message", "") and vm.status().get("ready"))
        assert (vm.pid(PROXY), vm.run("nft", "list", "ruleset"), vm.run("ip", "route")) == (proxy, rules, routes)
        fault.unlink()
    assert vm.show("NRestarts") == {"NRestarts": "1"}
    journal = vm.run("journalctl", "-u", UNIT, "-o", "cat", "--no-pager", "-n", "200")
    assert (
        "status=70" in journal and "injected into routes-diff" in journal and "the proxy runs on for the next daemon" in journal
    )
    vm.wait_ready(150)
    assert vm.pid(PROXY) == proxy and vm.condition("Program") == {}


def test_a_stop_that_meets_a_bug_leaves_nothing(vm: Machine) -> None:
    faulty(vm, "redirect-stop").touch()
    vm.run("systemctl", "stop", UNIT)
    assert "injected into redirect-stop" in vm.run("journalctl", "-u", UNIT, "-o", "cat", "--no-pager", "-n", "200")
    assert "meshexp" not in vm.run("nft", "list", "tables") + vm.run("ip", "route", "show", "proto", "77")
    assert vm.pid(PROXY) == 0
    vm.file("/opt/faults/redirect-stop").unlink()


def test_a_binary_replaced_under_the_proxy_is_taken_by_the_next_daemon(vm: Machine) -> None:
    proxy, binary = vm.pid(PROXY), vm.file("/opt/development-proxy")
    fresh = binary.with_name("fresh")
    fresh.write_text(f"{binary.read_text()}# another build\n")
    fresh.chmod(0o755)
    fresh.rename(binary)
    vm.run("systemctl", "restart", UNIT)
    vm.wait(lambda: vm.pid(PROXY) not in (0, proxy))
    vm.wait_ready()


def test_the_watchdog_ends_a_daemon_that_hangs(vm: Machine) -> None:
    """Less than the daemon's own 15 s between two cycles: it goes by what the unit says."""
    drop_in(vm, "[Service]\nWatchdogSec=8s\n")
    vm.run("systemctl", "restart", UNIT)
    vm.wait_ready()
    vm.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)
    vm.wait(lambda: vm.show("NRestarts")["NRestarts"] == "1", 45)
    vm.wait_ready()
    assert vm.show("Result") == {"Result": "success"}
    assert vm.run("journalctl", "-u", UNIT, "-o", "cat").count("Watchdog timeout") == 1


def test_a_stop_takes_the_time_that_its_drain_needs(vm: Machine) -> None:
    """Longer than systemd would wait, and longer than its watchdog."""
    drop_in(vm, "[Service]\nTimeoutStopSec=6s\nWatchdogSec=5s\n")
    slow = subprocess.Popen(
        [*vm.mesh.node.enter, "curl", "-fsS", "--interface", PODS, f"http://{VM}:8000/slow"], stdout=subprocess.PIPE
    )
    vm.wait(lambda: "8000" in vm.mesh.node.run("ss", "-tnH", "state", "established"))
    began = time.monotonic()
    vm.run("systemctl", "stop", UNIT)
    assert (slow.communicate(timeout=60)[0], slow.returncode) == (b"hello\n", 0)
    assert time.monotonic() - began > 6.5
    assert vm.show("Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}, vm.journal()
    # One that ended badly would stay on systemd's list.
    vm.run("systemd-run", "--unit", PROXY, "false")
    vm.wait(lambda: vm.show("ActiveState", unit=PROXY) == {"ActiveState": "failed"})
    vm.run("meshexp", "cleanup")
    assert vm.show("ActiveState", unit=PROXY) == {"ActiveState": "inactive"}


def test_a_log_namespace(vm: Machine) -> None:
    """The journal's fields come through it, and whoever asks us need not know of it."""
    drop_in(vm, "[Service]\nLogNamespace=mesh\n")
    vm.run("systemctl", "stop", UNIT)
    vm.run("systemctl", "start", UNIT)
    vm.wait_ready()
    lines = vm.run("journalctl", "--namespace=mesh", "-o", "json", "--no-pager").splitlines()
    entries = [json.loads(line) for line in lines]
    assert any(entry.get("MESHEXP_PART") == "proxy" for entry in entries if entry.get("_SYSTEMD_UNIT") == UNIT)
    assert any(entry.get("_SYSTEMD_UNIT") == PROXY for entry in entries)
    logs = vm.run("meshexp", "logs", "--lines=1000")
    assert {"meshexp-harness[", "meshexp-proxy["} <= set(re.findall(r"meshexp-\w+\[", logs))
    assert entries[-1]["MESSAGE"] in logs
    assert "Ready" in vm.run("meshexp", "status")


def test_a_pulled_plug_and_a_boot_while_the_control_plane_is_away(vm: Machine) -> None:
    """The boot is not delayed, and it is the same machine afterwards."""
    name = vm.status()["workload"]["name"]
    vm.mesh.stop("controller", signal.SIGKILL)
    vm.pull_the_plug()
    vm.boot()
    assert vm.show("ActiveState") == {"ActiveState": "active"}
    assert vm.run("systemctl", "is-system-running", check=False).strip() == "running"
    vm.wait(lambda: vm.status()["phase"] == "Starting")  # it tells of itself after its first cycle
    vm.mesh.start_controller()
    vm.wait_ready()
    assert vm.status()["workload"]["name"] == name


def test_a_further_workload_has_a_unit_of_its_own(vm: Machine) -> None:
    add_api(vm)
    assert vm.run("systemd-analyze", "verify", API) == ""
    vm.wait_ready()  # the first one's proxy is started again, since it has a neighbour now
    assert "others     api (Ready)" in vm.run("meshexp", "status")
    proxies = vm.pid(PROXY), vm.pid(API_PROXY)
    with vm.traffic():
        vm.run("systemctl", "restart", UNIT)
        vm.wait_ready()
        vm.wait(lambda: api_phase(vm) == "Ready")
    assert (vm.pid(PROXY), vm.pid(API_PROXY)) == proxies, "both proxies lived through the restart of both daemons"
    assert "Ready" in vm.run("meshexp", "logs", "--instance", "api")
    vm.run("systemctl", "stop", UNIT)
    assert {vm.show("ActiveState", unit=unit)["ActiveState"] for unit in (API, API_PROXY, PROXY)} == {"inactive"}
    assert "meshexp" not in vm.run("nft", "list", "tables")
    vm.run("systemctl", "start", UNIT)
    vm.wait(lambda: api_phase(vm) == "Ready")
    vm.wait_ready()
    left = vm.run("meshexp", "leave", "--instance", "api")
    assert "meshexp-harness@api.service is stopped and disabled" in left
    assert vm.run("nft", "list", "tables").split() == ["table", "inet", "meshexp"]
    assert not vm.file("/run/meshexp-api").exists()
    shutil.rmtree(vm.file("/etc/meshexp/instances"))
    vm.run("userdel", API_USER)
