"""The deb: how long it takes to build and to install, how large it is, and what its unit is exposed to. In a booted Debian 12."""

from __future__ import annotations

import re
import statistics
import time

from bench.record import Record, record
from tests.mesh import ROOT
from tests.package.machine import UNIT, machine
from tests.package.root import debian, layered, sh
from tests.waiting import wait

INSTALLS = 3


def run() -> list[Record]:
    began = time.monotonic()
    deb = ROOT / sh(str(ROOT / "packaging/deb/build")).split()[-1]
    build = time.monotonic() - began
    seconds, exposure = [], 0.0
    for _ in range(INSTALLS):
        with layered(debian("bookworm")) as root, machine(root) as vm:
            vm.boot()
            package = vm.put(deb)
            vm.apt("check")  # apt's own cache is warm after the dependencies
            began = time.monotonic()
            vm.apt("install", package)
            wait(lambda: "waiting" in vm.show("StatusText")["StatusText"], why=vm.journal, share=1.0)
            seconds.append(time.monotonic() - began)
            text = vm.run("systemd-analyze", "security", "--no-pager", UNIT)
            exposure = float(re.findall(r"exposure level for .*: ([\d.]+)", text)[-1])
    return [
        record("deb.build_seconds", build, "s"),
        record("deb.installed_kib", float(sh("dpkg-deb", "--field", str(deb), "Installed-Size")), "KiB"),
        record("deb.install_seconds", statistics.median(seconds), "s"),
        record("unit.exposure", exposure, "of 10"),
    ]
