"""Where the liveness of a fleet could be kept, and what each way costs the API server and etcd: side by side, in one run.

Each machine of a steady fleet is heard every third of its lease of 30 s. In turn: a Lease of each machine, renewed as kubelets
renew their nodes'; the time of the last report in the status of its ExternalWorkload; as built, in memory: a Lease of each of two
replicas is renewed, and that of a machine written when its replica changes. Two clients watch what is written, as two replicas
or Linkerd's two controllers do.

Cores and growth are those of a write, beyond an idle cluster's, times the writes that the fleet needs: so it does not matter
whether this machine keeps up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import re
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from bench.controller import cpu_seconds
from bench.record import Record, record
from controller import model
from controller.kubernetes.client import Client
from controller.kubernetes.store import KubernetesStore
from controller.leases import Share
from controller.model import Condition, ExternalWorkload, Lease, MeshTLS, Metadata, Status, WorkloadIP, WorkloadSpec
from controller.owners import MACHINE
from controller.replicas import Replicas
from demo.report import table
from harness.clock import SystemClock
from harness.values import SpiffeId, parse_address
from tests.kubernetes_support import NAMESPACE, Cluster, cluster

FLEETS = (1000, 5000)
RENEWAL_SECONDS = 10.0
MEASURED_SECONDS = 8.0
_SENDERS = 32
_LEASES = f"/apis/{model.LEASE_API}/namespaces/{NAMESPACE}/leases"
_WORKLOADS = f"/apis/{model.WORKLOAD_API}/namespaces/{NAMESPACE}/externalworkloads"
_HEADER = ("liveness in", "machines", "writes/s", "API server, cores", "etcd, cores", "etcd, MiB/h")


@dataclass(frozen=True, slots=True)
class Reading:
    """At one moment, or what was between two. `api`, `etcd`: seconds of a processor. `size`: bytes of etcd's database in use."""

    seconds: float
    writes: float
    api: float
    etcd: float
    size: float

    def since(self, earlier: Reading) -> Reading:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(earlier), strict=True)
        return Reading(*(now - before for now, before in pairs))


def run() -> list[Record]:
    return asyncio.run(_run(cluster()))


async def _run(made: Cluster) -> list[Record]:
    rows: list[tuple[str, ...]] = []
    records: list[Record] = []
    made.kubectl("delete", "--raw", _LEASES)
    async with made.client(writes_per_second=1e6) as client:
        try:
            for size, already in zip(FLEETS, (0, *FLEETS), strict=False):
                await _create(client, range(already, size))
                for way, costs in (await _compare(made, client, size)).items():
                    rows.append((way.replace("_", " "), str(size), *(f"{value:.3g}" for value in costs)))
                    names = ("writes_per_second", "api_server_cores", "etcd_cores", "etcd_mib_per_hour")
                    units = ("writes/s", "cores", "cores", "MiB/h")
                    records += [record(f"leases.{way}_{size}.{n}", v, u) for n, v, u in zip(names, costs, units, strict=True)]
        finally:
            for path in (_LEASES, _WORKLOADS):
                made.kubectl("delete", "--raw", path)
    print(table(_HEADER, rows))
    return records


async def _compare(made: Cluster, client: Client, size: int) -> dict[str, tuple[float, ...]]:
    """Of each way: writes a second, cores of the API server, cores of etcd, MiB an hour that etcd grows by until it compacts."""
    idle = await _measure(made, "leases")
    needed = size / RENEWAL_SECONDS

    def cost(spent: Reading, writes: float) -> tuple[float, ...]:
        beyond = (now - before / idle.seconds * spent.seconds for now, before in ((spent.api, idle.api), (spent.etcd, idle.etcd)))
        api, etcd, size = (max(0.0, value) / spent.writes * writes for value in (*beyond, spent.size))
        return writes, api, etcd, size * 3600 / 2**20

    each = await _measure(made, "leases", *_fleet(client, _LEASES, _machine, _renewed, size))
    status = await _measure(
        made, "externalworkloads", *_fleet(client, _WORKLOADS, lambda n: f"{_workload(n)}/status", _probed, size)
    )
    built = await _measure(made, "leases", *_replicas(client, size))
    return {
        "lease_of_each": cost(each, needed),
        "workload_status": cost(status, needed),
        "as_built": cost(built, built.writes / built.seconds),
    }


async def _measure(made: Cluster, resource: str, *work: Coroutine[Any, Any, None]) -> Reading:
    """While `work` runs, which has no end."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.sleep(1)
        before = await asyncio.to_thread(_read, made, resource)
        await asyncio.sleep(MEASURED_SECONDS)
        spent = (await asyncio.to_thread(_read, made, resource)).since(before)
        for task in tasks:
            if task.done():
                task.result()
        return spent
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _read(made: Cluster, resource: str) -> Reading:
    api = made.kubectl("get", "--raw", "/metrics")
    pattern = rf'^apiserver_request_total\{{[^}}]*resource="{resource}"[^}}]*verb="(?:POST|PUT|PATCH|APPLY)"[^}}]*\}} (\S+)$'
    writes = sum(map(float, re.findall(pattern, api, re.MULTILINE)))
    servers = next(flag for flag in made.command if flag.startswith("--etcd-servers="))
    with urllib.request.urlopen(f"{servers.partition('=')[2]}/metrics", timeout=10) as answer:  # noqa: S310  (loopback)
        etcd = answer.read().decode()
    (size,) = re.findall(r"^etcd_mvcc_db_total_size_in_use_in_bytes (\S+)$", etcd, re.MULTILINE)
    server, store = cpu_seconds(made.processes["kube-apiserver"]), cpu_seconds(made.processes["etcd"])
    return Reading(time.monotonic(), writes, server, store, float(size))


def _fleet(
    client: Client, path: str, name: Callable[[int], str], body: Callable[[], dict[str, Any]], size: int
) -> Iterable[Coroutine[Any, Any, None]]:
    """Its writes, one machine after the other and evenly, and two who watch them."""
    numbers, began = itertools.count(), time.monotonic()

    async def send() -> None:
        for number in numbers:
            await asyncio.sleep(max(0.0, began + number * RENEWAL_SECONDS / size - time.monotonic()))
            await client.send("PATCH", f"{path}/{name(number % size)}", body(), form="application/merge-patch+json")

    async def watch() -> None:
        version = (await client.get(path, limit="1"))["metadata"]["resourceVersion"]
        async for _ in client.watch(path, resourceVersion=version):
            pass

    return *(send() for _ in range(_SENDERS)), watch(), watch()


def _renewed() -> dict[str, Any]:
    return {"spec": {"renewTime": model.micro_time(time.time())}}


def _probed() -> dict[str, Any]:
    return {"status": {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": model.time(time.time())}]}}


def _replicas(client: Client, size: int) -> Iterable[Coroutine[Any, Any, None]]:
    for name in ("a", "b"):
        replica = Replicas(KubernetesStore(client).leases, SystemClock(), name, NAMESPACE)
        replica.share = lambda: Share(size // 2, size // 2, 0)
        yield replica.run()


async def _create(client: Client, numbers: Iterable[int]) -> None:
    identity = SpiffeId("root.linkerd.cluster.local", "/face")
    ready = Status((Condition("Ready", "True", "Ready"),))

    async def create(number: int) -> None:
        lease = Lease(Metadata(_machine(number), NAMESPACE), "a", time.time(), 8.0)
        await client.send("POST", _LEASES, lease.to_object())
        spec = WorkloadSpec(
            MeshTLS(identity, "face.cluster.local"), (WorkloadIP(parse_address(f"10.1.{number >> 8}.{number & 255}")),)
        )
        await client.send("POST", _WORKLOADS, ExternalWorkload(Metadata(_workload(number), NAMESPACE), spec, ready).to_object())

    await asyncio.gather(*map(create, numbers))


def _machine(number: int) -> str:
    return f"{MACHINE}faces.{_workload(number)}"


def _workload(number: int) -> str:
    return f"m{number}"
