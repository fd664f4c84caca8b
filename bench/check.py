"""`meshexp check`: how long it takes when all is well, and how many broken machines it names rightly. One VM in a namespace."""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from bench.record import Record, record
from tests.check import lab, test_broken_member, test_broken_newcomer
from tests.check.lab import Broken
from tests.mesh import Mesh

CALLS = 9
Check = Callable[[Broken, bool], dict[str, dict[str, str]]]
"""Whether it is mended is the second argument."""


def run() -> list[Record]:
    with lab.member() as vm:
        times = [_timed(vm, sys.executable, "-s", "-m", "harness", "check") for _ in range(CALLS)]
        bare = [_timed(vm, sys.executable, "-s", "-c", "pass") for _ in range(CALLS)]

        def member(broken: Broken, mended: bool) -> dict[str, dict[str, str]]:
            return lab.check(vm, through=() if mended else broken.through)

        members = _named(vm, test_broken_member.MACHINES, member, vm.wait_ready)
    with lab.machine() as vm:
        (vm.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        through = test_broken_newcomer.own_resolver(vm)

        def newcomer(broken: Broken, mended: bool) -> dict[str, dict[str, str]]:
            return lab.check(vm, *(("--pre",) if broken.pre else ()), through=through)

        newcomers = _named(vm, test_broken_newcomer.MACHINES, newcomer, lambda: test_broken_newcomer.as_before(vm))
    seconds, python = statistics.median(times), statistics.median(bare)
    machines = len(test_broken_member.MACHINES) + len(test_broken_newcomer.MACHINES)
    return [
        record("check.seconds", seconds, "s", "python3 -c pass", seconds / python),
        record("check.broken_machines_named", members + newcomers, f"of {machines}"),
    ]


def _timed(vm: Mesh, *argv: str) -> float:
    began = time.monotonic()
    subprocess.run([*vm.vm.enter, *argv], env=vm.environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def _named(vm: Mesh, machines: dict[str, Broken], check: Check, between: Callable[[], object]) -> int:
    """How many are named, with nothing that does not follow from it, and are mended by what the hint says."""
    count = 0
    for name, broken in machines.items():
        broken.break_(vm)
        try:
            named = check(broken, False)
        finally:
            broken.mend(vm)
        right = broken.code in named and named.keys() <= {broken.code} | broken.also
        vm.wait(functools.partial(_well, check, broken), 30)
        between()
        count += right
        if not right:
            print(f"not named: {name} ({broken.code}), but {sorted(named)}", file=sys.stderr)
    return count


def _well(check: Check, broken: Broken) -> bool:
    return check(broken, True) == {}
