"""A machine on which the package was before its first boot, and which is a member: what the tests of the unit stand on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.package.machine import CHECKOUT, PROXY, UNIT, Machine, machine
from tests.package.root import layered

COLLECTED = "/var/lib/prometheus/node-exporter"  # of Debian's prometheus-node-exporter
DROP_IN = f"/etc/systemd/system/{UNIT}.d/test.conf"
_WELL = ("/bin/sh", "-c", "test -e /opt/well || { echo $(id -un) is not well; exit 3; }")


@contextlib.contextmanager
def booted_member(layers: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*layers) as root, machine(root) as found:
        found.configure(
            proxy={"shutdown_grace": "15s"},
            probes={"commands": {"well": _WELL}},
            metrics={"textfile": f"{COLLECTED}/meshexp.prom"},
        )
        found.file(COLLECTED).mkdir(parents=True)
        limits = found.file(f"/etc/systemd/system/{PROXY}.d/limits.conf")
        limits.parent.mkdir()
        limits.write_text("[Service]\nMemoryMax=300M\nCPUQuota=150%\n")
        found.boot()
        yield found


def make_ready(vm: Machine) -> None:
    if vm.show("ActiveState") != {"ActiveState": "active"}:
        vm.run("systemctl", "restart", UNIT)
    vm.wait_ready()
    if vm.show("ActiveState", unit="workload.service") != {"ActiveState": "active"}:
        vm.serve()


def repairs(vm: Machine) -> int:
    """How often the daemon has repaired the redirect."""
    return int(vm.status()["counters"]["repairs"].get("redirect", 0))


def drop_in(vm: Machine, text: str) -> None:
    """Empty: there is none."""
    path = vm.file(DROP_IN)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text) if text else path.unlink(missing_ok=True)
    vm.run("systemctl", "daemon-reload")


def faulty(vm: Machine, name: str, more: str = "") -> Path:
    """The daemon becomes one in which a step fails as long as the file is there. `more`: of its unit."""
    fault = vm.file(f"/opt/faults/{name}")
    fault.parent.mkdir(exist_ok=True)
    command = "/usr/bin/python3 -s -m tests.faulty /opt/faults run"
    drop_in(vm, f"[Service]\nEnvironment=PYTHONPATH={CHECKOUT}\nExecStart=\nExecStart={command}\n{more}")
    vm.run("systemctl", "restart", UNIT)
    vm.wait_ready()
    return fault
