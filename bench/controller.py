"""The controller on a real API server: joins, readiness, edits, silence, failover, and what 5,000 held machines cost."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.record import Record, record
from controller.kubernetes import access
from controller.kubernetes.client import Client
from controller.kubernetes.store import KubernetesStore
from harness.errors import TemporaryError
from tests import kubernetes_support
from tests.kubernetes_site import Site
from tests.waiting import wait

JOINING, HELD, FLIPS = 1000, 5000, 100
REST_SECONDS = 60.0
DEBIAN = "/usr/bin/python3"
_SPEC: dict[str, Any] = {"template": {"metadata": {"labels": {"service": "face"}}, "ports": [{"name": "http", "port": 8000}]}}


class Seen:
    """Every change of every ExternalWorkload, with its time, from a watch of this process's own."""

    def __init__(self, kubeconfig: str) -> None:
        self.ready: dict[str, bool] = {}
        self.changes: list[tuple[float, str, str, bool]] = []
        self._kubeconfig = kubeconfig
        self._listed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        self._listed.wait(30)

    def _watch(self) -> None:
        with contextlib.suppress(TemporaryError):  # the end of the API server
            asyncio.run(self._run())

    async def _run(self) -> None:
        async with Client(access.from_kubeconfig(self._kubeconfig)) as client:
            workloads = KubernetesStore(client).workloads
            listing = await workloads.list()
            self._listed.set()
            async for change in workloads.watch(listing.resource_version):
                name = change.item.metadata.name
                self.changes.append((time.time(), change.type.value, name, change.item.ready))
                self.ready[name] = change.item.ready

    def when(self, name: str, ready: bool, after: float, seconds: float = 60.0) -> float:
        """The moment of that change."""

        def find() -> float | None:
            newer = (t for t, _, n, r in reversed(self.changes) if n == name and r is ready and t >= after)
            return next(newer, None)

        wait(lambda: find() is not None, seconds)
        return find() or 0.0


def run(joining: int = JOINING, held: int = HELD, flips: int = FLIPS, rest: float = REST_SECONDS) -> list[Record]:
    """The figures are named for the usual numbers; others are for trying this out."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="meshexp-bench-"))
    python = DEBIAN if shutil.which(DEBIAN) else "python3"
    made = Site(kubernetes_support.cluster(), folder, python)
    try:
        seen = Seen(made.cluster.kubeconfig())
        made.group(**_SPEC)
        return [*_lives(made, seen, joining, flips), *_weight(made, held, rest)]
    finally:
        made.close()
        shutil.rmtree(folder)


def _lives(made: Site, seen: Seen, joining: int, flips: int) -> list[Record]:
    made.start("a")
    made.start("b")
    fleet = made.fleet("a", "b")
    joined = fleet("join", count=joining)
    wait(lambda: sum(seen.ready.values()) == joining, 60)
    seconds = max(t for t, *_ in seen.changes) - joined["began"]
    delays = []
    for number in range(flips):
        flip = fleet("flip", number=number, ready=False)
        delays.append(seen.when(flip["name"], False, flip["sent"]) - flip["sent"])
        flip = fleet("flip", number=number, ready=True)
        seen.when(flip["name"], True, flip["sent"])
    edited = time.monotonic()
    made.group(**_SPEC, drainSeconds=9)
    wait(lambda: fleet("state")["drains"] == {"9s": joining}, share=1.0)
    told = time.monotonic() - edited
    silence = fleet("silence", number=joining - 1)
    silent = seen.when(silence["name"], False, silence["sent"], 40) - silence["sent"]
    failover, wrong = _failover(made, seen, fleet, joining - 1)
    return [
        record("controller.join_1000_seconds", seconds, "s"),
        record("controller.readiness_ms", statistics.median(delays) * 1000, "ms"),
        record("controller.group_edit_seconds", told, "s"),
        record("controller.silent_to_unready_seconds", silent, "s"),
        record("controller.failover_seconds", failover, "s"),
        record("controller.failover_wrong_transitions", wrong, "transitions"),
    ]


def _failover(made: Site, seen: Seen, fleet: Callable[..., Any], connected: int) -> tuple[float, int]:
    """Until another leads and holds every machine; then a lease longer, for transitions that nobody caused."""
    before = len(seen.changes)
    made.kill("a")
    began = time.monotonic()
    wait(lambda: made.replicas["b"].lines("leading"), share=1.0)
    wait(lambda: fleet("state")["connected"] == connected and fleet("state")["places"].get("0", 0) <= 1, share=1.0)
    seconds = time.monotonic() - began
    time.sleep(35)
    return seconds, sum(1 for _, kind, _, ready in seen.changes[before:] if kind == "DELETED" or not ready)


def _weight(made: Site, held: int, rest: float) -> list[Record]:
    for name in tuple(made.replicas):
        made.kill(name)
    for process in made.fleets:
        process.kill()
    made.empty()
    replica = made.start("c")
    fleet = made.fleet("c")
    alone = replica.memory_mib()
    joined = fleet("join", count=held)
    time.sleep(15)
    writes, cpu, began = _writes(made), cpu_seconds(replica.process), time.monotonic()
    time.sleep(rest)
    seconds = time.monotonic() - began
    used = (cpu_seconds(replica.process) - cpu) / seconds
    rate = (_writes(made) - writes) / seconds
    if fleet("state")["connected"] != held:
        raise RuntimeError("not every machine stayed connected")
    memory = replica.memory_mib()
    return [
        record("controller.join_5000_seconds", joined["ended"] - joined["began"], "s"),
        record("controller.rss_5000_mib", memory, "MiB"),
        record("controller.rss_kib_per_machine", (memory - alone) * 1024 / held, "KiB"),
        record("controller.cores_5000", used, "cores"),
        record("controller.rest_writes_per_second", rate, "writes/s"),
    ]


def _writes(made: Site) -> float:
    """By whomever; the API server's own few are among them."""
    text = made.cluster.kubectl("get", "--raw", "/metrics")
    pattern = re.compile(r'^apiserver_request_total\{[^}]*verb="(?:POST|PUT|PATCH|APPLY|DELETE)"[^}]*\} (\S+)$', re.MULTILINE)
    return sum(float(count) for count in pattern.findall(text))


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
