"""A machine's life with the package, on real systemd: installed, joined, restarted, upgraded, removed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import host_state
from harness import __version__
from tests.mesh import VM, on_path
from tests.package.debs import NEWER, Debs
from tests.package.instance import API_USER, add_api
from tests.package.machine import PODS, PROXY, UNIT, UPGRADE, Machine, machine
from tests.package.root import layered

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


def join(vm: Machine, **sections: Any) -> None:
    vm.configure(**sections)
    vm.run("systemctl", "reload", UNIT)
    vm.wait_ready()
    vm.serve()


def survives(vm: Machine, ways: tuple[str, ...], *change: str, version: str = __version__) -> None:
    """The command changes the daemon for one of `version`, and nobody notices."""
    proxy = vm.pid(PROXY)
    with vm.traffic(*ways):
        vm.change_daemon(*change, version=version)
    assert vm.pid(PROXY) == proxy, f"the proxy lived through {' '.join(change)}"


def goes_through_the_proxy(vm: Machine, ways: tuple[str, ...]) -> None:
    """What makes the counts of requests mean something."""
    with vm.traffic(*ways) as result:
        pass
    targets = {"inbound": VM, "outbound": PODS}
    metrics = vm.mesh.vm.run("curl", "-fsS", "http://127.0.0.1:4191/metrics")
    for way, outcome in result.items():
        found = [
            float(line.split()[-1])
            for line in metrics.splitlines()
            if line.startswith("tcp_open_total") and f'direction="{way}"' in line and targets[way] in line
        ]
        assert sum(found) >= outcome["requests"], metrics


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

    vm.apt("install", vm.put(debs.present))
    assert vm.show("ActiveState", "UnitFileState") == {"ActiveState": "active", "UnitFileState": "enabled"}
    status = vm.show("StatusText")["StatusText"]
    assert "waiting for configuration: run `meshexp join INVITATION`" in status and "workload.group" in status
    assert host_state.differences(before, vm.dump()) == []

    join(vm, **sections)
    name = vm.status()["workload"]["name"]
    goes_through_the_proxy(vm, ways)

    vm.reboot()
    vm.wait_ready()
    vm.serve()
    assert vm.status()["workload"]["name"] == name, "the same machine"

    survives(vm, ways, "systemctl", "restart", UNIT)
    conffile = vm.file("/etc/meshexp/harness.yaml").read_text()
    survives(vm, ways, *UPGRADE, vm.put(debs.newer), version=NEWER)
    survives(vm, ways, *UPGRADE, "--allow-downgrades", vm.put(debs.present))
    assert vm.file("/etc/meshexp/harness.yaml").read_text() == conffile, "what was edited by hand is kept"
    assert vm.status()["workload"]["name"] == name

    if not sections:
        add_api(vm)
    vm.apt("remove", "meshexp-harness")
    assert host_state.differences(before, vm.dump()) == []
    assert [command for _, command in vm.processes().values() if "meshexp" in command] == []
    assert vm.file("/etc/meshexp/harness.yaml").read_text() == conffile

    vm.apt("purge", "meshexp-harness")
    vm.run("userdel", API_USER, check=False)
    assert units(vm) == units_before
    assert accounts(vm.root) == accounts_before
    left = {path: about for path, about in files(vm.root).items() if files_before.get(path) != about}
    assert left == {}
    assert set(files_before) - set(files(vm.root)) == set()
    assert not vm.file("/run/meshexp").exists()

    vm.run("systemctl", "stop", "workload")
    vm.apt("install", vm.put(debs.present))
    join(vm, **sections)


def test_killed_during_an_upgrade(installed: tuple[Path, ...], debs: Debs) -> None:
    """Between unpacking and configuring: systemd starts the new code at once, and dpkg goes on."""
    with layered(*installed) as root, machine(root) as vm:
        vm.configure()
        vm.boot()
        vm.wait_ready()
        vm.serve()
        proxy = vm.pid(PROXY)
        with vm.traffic():
            vm.run("dpkg", "--unpack", "--force-confold", vm.put(debs.newer))
            vm.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
            vm.wait(lambda: vm.status().get("version") == NEWER)
            vm.run("dpkg", "--configure", "--force-confold", "-a")
            vm.wait_ready()
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
