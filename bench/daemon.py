"""The daemon: what a join consists of, what it costs at rest, how soon it repairs. Stand-ins, one VM in a namespace."""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from bench.record import Record, record
from tests.mesh import Mesh, mesh
from tests.redirect_support import FLUSH
from tests.waiting import wait

JOINS, REST_SECONDS, CALLS, REPAIRS = 7, 30.0, 15, 15


def run() -> list[Record]:
    joins: list[float] = []
    steps: dict[str, list[float]] = {}
    for _ in range(JOINS):
        with mesh() as vm:
            vm.start_controller()
            _listening(vm)
            seconds, parts = _join(vm)
            joins.append(seconds)
            for name, share in parts.items():
                steps.setdefault(name, []).append(share)
            vm.stop("harness")
    median = statistics.median(joins)
    records = [record("join.standin_seconds", median, "s")]
    for name, shares in steps.items():
        share = statistics.median(shares)
        records.append(record(f"join.standin_{name}_seconds", share, "s", "join.standin_seconds", share / median))
    return [*records, *_at_rest(), *(_repaired(backend) for backend in FLUSH)]


def _listening(vm: Mesh) -> None:
    vm.wait(lambda: ":8081" in vm.node.run("ss", "-ltnH"))


def _join(vm: Mesh) -> tuple[float, dict[str, float]]:
    """Seconds from exec to the controller's knowing it ready, and what each step took of them."""
    began = time.time()
    vm.start_daemon()
    vm.wait(lambda: "Ready" in (vm.folder / "controller.log").read_text())
    times = {"process": began}
    for line in (vm.folder / "harness.log").read_text().splitlines():
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        at = datetime.fromisoformat(event["ts"]).timestamp()
        message, part = event["msg"], event.get("part")
        if message == "started":
            times["routes"] = at
        elif message.startswith("start the identity stream"):
            times["identity"] = at
        elif message.startswith("register "):
            times["registration"] = at
        elif part == "proxy" and message.startswith("start "):
            times["proxy"] = at
        elif part == "redirect":
            times.setdefault("redirect", at)
        elif message.startswith("report ready"):
            times["report"] = at
    end = next(datetime.fromisoformat(event["ts"]).timestamp() for event in vm.events("readiness changed") if event["ready"])
    order = [*sorted(times.items(), key=lambda item: item[1]), ("end", end)]
    return end - began, {name: later - at for (name, at), (_, later) in itertools.pairwise(order)}


def _at_rest() -> list[Record]:
    with mesh() as vm:
        vm.start_controller(lease="30s")
        vm.start_daemon()
        vm.wait_ready()
        time.sleep(3)
        daemon = vm.processes["harness"].pid
        stream = next(p for p in _children(daemon) if "workload_api_child" in _command(p))
        before, began = _cpu(daemon) + _cpu(stream), time.monotonic()
        time.sleep(REST_SECONDS)
        busy = (_cpu(daemon) + _cpu(stream) - before) / (time.monotonic() - began) * 100
        calls = []
        for _ in range(CALLS):
            started = time.monotonic()
            vm.meshexp("status")
            calls.append(time.monotonic() - started)
        bare = []
        for _ in range(CALLS):
            started = time.monotonic()
            subprocess.run([*vm.vm.enter, sys.executable, "-s", "-c", "pass"], check=True)
            bare.append(time.monotonic() - started)
        status = statistics.median(calls)
        return [
            record("daemon.rss_mib", _memory(daemon, "Rss"), "MiB"),
            record("daemon.rss_all_mib", _memory(daemon, "Rss") + _memory(stream, "Rss"), "MiB"),
            record("daemon.pss_all_mib", _memory(daemon, "Pss") + _memory(stream, "Pss"), "MiB"),
            record("daemon.idle_cpu_percent", busy, "% of a core"),
            record("cli.status_seconds", status, "s", "python3 -c pass", status / statistics.median(bare)),
        ]


def _repaired(backend: str) -> Record:
    """From another's command that takes all rules away until they are back: the slowest of the daemon's repairs."""
    with mesh(redirect={"backend": backend}) as vm:

        def dump() -> str:
            tables = "nft list ruleset; iptables-legacy-save -t nat; ip6tables-legacy-save -t nat"
            return vm.vm.run("sh", "-c", f"({tables}) | grep -v '^[#:]'")

        vm.start_controller()
        vm.start_daemon()
        vm.wait_ready()
        before, seconds = dump(), []
        for _ in range(REPAIRS):
            began = time.monotonic()
            vm.vm.run("sh", "-c", FLUSH[backend])
            wait(lambda: dump() == before, every=0.005, share=1.0)
            seconds.append(time.monotonic() - began)
            time.sleep(0.5)
        return record(f"redirect.repair_{backend}_seconds", max(seconds), f"s, slowest of {REPAIRS}")


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def _memory(pid: int, what: str) -> float:
    """Mebibytes, from smaps_rollup."""
    found = re.search(rf"^{what}: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def _cpu(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
