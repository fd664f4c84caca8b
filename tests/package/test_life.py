"""A machine's life with the package, on real systemd: installed, joined, restarted, upgraded, removed; and what may go wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import host_state
from harness import __version__
from tests.mesh import VM, on_path
from tests.package.conftest import NEWER, Debs
from tests.package.machine import PODS, UNIT, Machine, machine, uid_of
from tests.package.root import layered

PROXY = "meshexp-proxy.service"
REAL = {name: on_path(name) for name in ("linkerd2-proxy", "spire-server", "spire-agent")}
_REAL_SECTIONS = {
    "identity": {
        "mode": "local",
        "local": {"ca_cert": "/opt/certs/intermediate.crt", "ca_key": "/opt/certs/intermediate.key"},
    },
    "proxy": {"path": "/usr/local/bin/linkerd2-proxy"},
}


@pytest.fixture
def vm(debian: Path) -> Iterator[Machine]:
    binds = [f"--bind-ro={path}:/usr/local/bin/{name}" for name, path in REAL.items() if path]
    with layered(debian) as root, machine(root, *binds) as found:
        yield found


def installed(vm: Machine, debs: Debs) -> Machine:
    if vm.booted is None:
        vm.boot()
    vm.apt("install", vm.put(debs.present))
    return vm


def joined(vm: Machine, debs: Debs, **sections: Any) -> Machine:
    installed(vm, debs).configure(**sections)
    vm.run("systemctl", "reload", UNIT)
    vm.wait_ready()
    vm.serve()
    return vm


def no_request_failed(result: dict[str, Any]) -> None:
    for way, outcome in result.items():
        assert outcome["failed"] == [], f"{way}: {outcome}"
        assert outcome["requests"] > 50, f"{way}: {outcome}"


def survives(vm: Machine, ways: tuple[str, ...], *change: str, version: str = __version__) -> None:
    """The command changes the daemon for one of `version`, and nobody notices."""
    proxy, daemon = vm.pid(PROXY), vm.pid()
    with vm.traffic(*ways) as result:
        vm.run(*change)
        vm.wait(lambda: vm.pid() not in (0, daemon) and vm.status().get("version") == version)
        vm.wait_ready()
    no_request_failed(result)
    assert vm.pid(PROXY) == proxy, f"the proxy lived through {' '.join(change)}"


def files(root: Path) -> dict[str, str]:
    """Every file with mode, owner and size, but for logs, caches, dpkg's own records, and what the tests put there."""
    own = re.compile(
        r"(var/(log|cache|tmp)|var/lib/(dpkg|apt|systemd)|opt|run|tmp|proc|sys|dev|usr/local/bin)(/|$)"
        r"|etc/(passwd|group|g?shadow|subuid|subgid)-$|etc/\."
    )
    found = {}
    for folder, names, leaves in os.walk(root):
        place = os.path.relpath(folder, root)
        names[:] = [name for name in names if not own.match(os.path.normpath(f"{place}/{name}"))]
        for name in (*names, *leaves):
            path = os.path.normpath(f"{place}/{name}")
            about = os.lstat(f"{folder}/{name}")
            size = about.st_size if name in leaves else 0
            if not own.match(path):
                found[path] = f"{about.st_mode:o} {about.st_uid}:{about.st_gid} {size}"
    return found


def accounts(root: Path) -> str:
    return "".join((root / "etc" / name).read_text() for name in ("passwd", "group", "shadow", "gshadow"))


def units(vm: Machine) -> list[str]:
    lines = vm.run("systemctl", "list-unit-files", "--no-pager", "--no-legend").splitlines()
    return [line for line in lines if not line.startswith("workload.service")]  # the tests' own


def variants() -> list[Any]:
    missing = [name for name, path in REAL.items() if path is None]
    mark = pytest.mark.skipif(bool(missing), reason=f"not on PATH, and in no registry: {', '.join(missing)}")
    return [pytest.param({}, id="stand-ins"), pytest.param(_REAL_SECTIONS, id="SPIRE and linkerd2-proxy", marks=mark)]


@pytest.mark.parametrize("sections", variants())
def test_a_whole_life(vm: Machine, debs: Debs, sections: dict[str, Any]) -> None:
    # Without Linkerd's destination controller the real proxy knows of no destination.
    ways = ("inbound",) if sections else ()
    vm.boot()
    before, files_before, accounts_before = vm.dump(), files(vm.root), accounts(vm.root)
    units_before = units(vm)

    installed(vm, debs)
    assert vm.show("ActiveState", "UnitFileState") == {"ActiveState": "active", "UnitFileState": "enabled"}
    assert "waiting for configuration: set workload.group" in vm.show("StatusText")["StatusText"]
    assert host_state.differences(before, vm.dump()) == []

    vm.configure(**sections)
    vm.run("systemctl", "reload", UNIT)
    vm.wait_ready()
    vm.serve()
    name = vm.status()["workload"]["name"]

    vm.reboot()
    vm.wait_ready()
    vm.serve()
    assert vm.status()["workload"]["name"] == name, "the same machine"

    survives(vm, ways, "systemctl", "restart", UNIT)
    conffile = vm.file("/etc/meshexp/harness.yaml").read_text()
    apt = ("apt-get", "-y", "-q", "-o", "Dpkg::Options::=--force-confold", "install")
    survives(vm, ways, *apt, vm.put(debs.newer), version=NEWER)
    survives(vm, ways, *apt, "--allow-downgrades", vm.put(debs.present))
    assert vm.file("/etc/meshexp/harness.yaml").read_text() == conffile, "what was edited by hand is kept"
    assert vm.status()["workload"]["name"] == name

    vm.apt("remove", "meshexp-harness")
    assert host_state.differences(before, vm.dump()) == []
    assert vm.run("ps", "-eo", "args").count("meshexp") == 0
    assert vm.file("/etc/meshexp/harness.yaml").read_text() == conffile

    vm.apt("purge", "meshexp-harness")
    assert units(vm) == units_before
    assert accounts(vm.root) == accounts_before
    left = {path: about for path, about in files(vm.root).items() if files_before.get(path) != about}
    assert left == {}
    assert set(files_before) - set(files(vm.root)) == set()
    assert not vm.file("/run/meshexp").exists()

    vm.run("systemctl", "stop", "workload")
    assert joined(vm, debs, **sections).status()["phase"] == "Ready"


@pytest.mark.parametrize("sections", variants())
def test_traffic_goes_through_the_proxy(vm: Machine, debs: Debs, sections: dict[str, Any]) -> None:
    """What makes the counts of the other tests mean something."""
    joined(vm, debs, **sections)
    with vm.traffic(*(("inbound",) if sections else ())) as result:
        pass
    targets = {"inbound": VM, "outbound": PODS}
    for way, target in ((way, targets[way]) for way in result):
        metrics = vm.mesh.vm.run("curl", "-fsS", "http://127.0.0.1:4191/metrics")
        found = [
            float(line.split()[-1])
            for line in metrics.splitlines()
            if line.startswith("tcp_open_total") and f'direction="{way}"' in line and target in line
        ]
        assert sum(found) >= result[way]["requests"], metrics


def test_killed_daemon_and_pulled_plug(vm: Machine, debs: Debs) -> None:
    joined(vm, debs)
    proxy, name = vm.pid(PROXY), vm.status()["workload"]["name"]
    with vm.traffic() as result:
        vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
        vm.wait(lambda: vm.show("NRestarts")["NRestarts"] == "1" and vm.show("ActiveState")["ActiveState"] == "active")
        vm.wait_ready()
    no_request_failed(result)
    assert vm.pid(PROXY) == proxy, "the proxy lived through the crash"
    vm.pull_the_plug()
    vm.boot()
    vm.wait_ready()
    assert vm.status()["workload"]["name"] == name


def test_the_watchdog_ends_a_daemon_that_hangs(vm: Machine, debs: Debs) -> None:
    joined(vm, debs)
    vm.file("/etc/systemd/system/meshexp-harness.service.d").mkdir()
    vm.file("/etc/systemd/system/meshexp-harness.service.d/test.conf").write_text("[Service]\nWatchdogSec=17s\n")
    vm.run("systemctl", "daemon-reload")
    vm.run("systemctl", "restart", UNIT)
    vm.wait_ready()
    vm.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)
    vm.wait(lambda: vm.show("NRestarts")["NRestarts"] == "1", 45)
    vm.wait_ready()
    assert vm.show("Result") == {"Result": "success"}


def test_a_stop_takes_the_time_that_its_drain_needs(vm: Machine, debs: Debs) -> None:
    """Longer than systemd would wait, and longer than its watchdog."""
    joined(vm, debs, proxy={"shutdown_grace": "15s"})
    vm.file("/etc/systemd/system/meshexp-harness.service.d").mkdir()
    vm.file("/etc/systemd/system/meshexp-harness.service.d/test.conf").write_text(
        "[Service]\nTimeoutStopSec=4s\nWatchdogSec=5s\n"
    )
    vm.run("systemctl", "daemon-reload")
    slow = subprocess.Popen(
        [*vm.mesh.node.enter, "curl", "-fsS", "--interface", PODS, f"http://{VM}:8000/slow"], stdout=subprocess.PIPE
    )
    vm.wait(lambda: "8000" in vm.mesh.node.run("ss", "-tnH", "state", "established"))
    began = time.monotonic()
    vm.run("systemctl", "stop", UNIT)
    assert (slow.communicate(timeout=30)[0], slow.returncode) == (b"hello\n", 0)
    assert time.monotonic() - began > 5.5
    assert vm.show("Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}


def test_killed_during_an_upgrade(vm: Machine, debs: Debs) -> None:
    """Between unpacking and configuring: systemd starts the new code at once, and dpkg goes on."""
    joined(vm, debs)
    proxy = vm.pid(PROXY)
    with vm.traffic() as result:
        vm.run("dpkg", "--unpack", "--force-confold", vm.put(debs.newer))
        vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
        vm.wait(lambda: vm.status().get("version") == NEWER)
        vm.run("dpkg", "--configure", "--force-confold", "-a")
        vm.wait_ready()
    no_request_failed(result)
    assert vm.pid(PROXY) == proxy
    assert "install ok installed" in vm.run("dpkg-query", "-W", "-f", "${Status}", "meshexp-harness")


def test_full_disk_during_an_install(debian: Path, debs: Debs) -> None:
    with layered(debian, megabytes=128) as root, machine(root) as vm:
        vm.boot()
        before = vm.dump()
        deb = vm.put(debs.present)
        vm.apt("check")  # apt's own cache is larger than our package, and would be what does not fit
        filler = root / "var/filler"
        with filler.open("wb") as file:
            free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
            file.write(bytes(free - 300 * 1024))
        output = vm.run("dpkg", "--install", deb, check=False)
        assert "No space left on device" in output, output
        assert "error processing archive" in output, output
        assert "install ok installed" not in vm.run("dpkg-query", "-W", "-f", "${Status}", "meshexp-harness", check=False)
        assert host_state.differences(before, vm.dump()) == []
        filler.unlink()
        vm.run("dpkg", "--configure", "-a")
        vm.apt("install", deb)
        assert "waiting for configuration" in vm.show("StatusText")["StatusText"]


def test_wrong_configurations(vm: Machine, debs: Debs) -> None:
    joined(vm, debs)
    drop_in = vm.file("/etc/meshexp/harness.d/50-wrong.yaml")
    drop_in.write_text("redirect: {outbound: mash}\n")
    vm.run("systemctl", "reload", UNIT)
    vm.wait(lambda: any(c["problem"] == "config-reload-failed" for c in vm.status()["conditions"]))
    assert vm.status()["phase"] in ("Ready", "Degraded"), "the old one stays in force"
    assert vm.show("ActiveState") == {"ActiveState": "active"}
    vm.run("systemctl", "restart", UNIT, check=False)
    vm.wait(lambda: vm.show("ActiveState")["ActiveState"] == "failed")
    assert vm.show("ExecMainStatus", "NRestarts") == {"ExecMainStatus": "78", "NRestarts": "0"}, (
        "it is not started again and again"
    )
    assert "redirect.outbound" in vm.run("journalctl", "-u", UNIT, "--no-pager", "-n", "20")
    drop_in.unlink()
    vm.run("systemctl", "restart", UNIT)
    vm.wait_ready()


def test_boot_is_not_delayed_when_the_control_plane_is_away(vm: Machine, debs: Debs) -> None:
    joined(vm, debs)
    vm.mesh.stop("controller", signal.SIGKILL)
    vm.reboot()
    assert vm.show("ActiveState") == {"ActiveState": "active"}
    assert vm.run("systemctl", "is-system-running", check=False).strip() == "running"
    finished = re.search(r"startup finished in .*?([\d.]+)s", vm.run("systemd-analyze", "time", check=False).lower())
    assert vm.status()["phase"] == "Starting", finished
    vm.mesh.start_controller()
    vm.wait_ready()


def test_the_unit_is_sandboxed_and_right(vm: Machine, debs: Debs) -> None:
    """On the unit with which the tests above pass."""
    joined(vm, debs)
    exposure = vm.run("systemd-analyze", "security", "--no-pager", "--threshold=30", UNIT)
    assert "OK" in exposure.splitlines()[-1]
    assert vm.run("systemd-analyze", "verify", "--man=yes", UNIT) == ""
    main, status = vm.pid(), Path(f"/proc/{vm.leader}/root/proc/{vm.pid()}/status").read_text()
    assert "NoNewPrivs:\t1" in status, main
    assert int(re.search(r"CapBnd:\t(\w+)", status)[1], 16).bit_count() <= 8  # type: ignore[index]
    entries = [json.loads(line) for line in vm.run("journalctl", "-u", UNIT, "-o", "json", "--no-pager").splitlines()]
    assert any(entry.get("MESHEXP_PART") == "proxy" for entry in entries), "journal fields"
    assert {"meshexp-harness[", "meshexp-proxy["} <= set(re.findall(r"meshexp-\w+\[", vm.run("meshexp", "logs")))
    assert uid_of(vm, "meshexp-proxy") == int(vm.run("stat", "-c", "%u", f"/proc/{vm.pid(PROXY)}"))
