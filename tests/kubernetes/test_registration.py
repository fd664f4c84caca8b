"""Registrations whose objects are in a real API server: the table of hostile requests again, and what only a cluster has."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from controller.app import Controller
from controller.kubernetes.cluster import Cluster
from controller.kubernetes.store import KubernetesStore
from controller.manifest import BUOYANT_GROUP_API
from harness.clock import SystemClock
from harness.messages import CODES, ClusterFacts
from harness.values import HostPort
from tests.children.controller_site import FACE, REQUEST, Site, config, path_of, report, secret_of
from tests.controller_support import Authority, group
from tests.hostile_machine import ALONE, HOSTILE
from tests.kubernetes_support import NAMESPACE, cluster

ROOTS = "linkerd-identity-trust-roots"


def trust(*authorities: Authority) -> None:
    """Linkerd's own object says so."""
    data = {"ca-bundle.crt": "".join(pathlib.Path(a.anchors).read_text() for a in authorities)}
    whole = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOTS, "namespace": "linkerd"}, "data": data}
    cluster().kubectl("apply", "-f", "-", given=json.dumps(whole))


@contextlib.asynccontextmanager
async def site(folder: pathlib.Path, *, of_linkerd: bool = False, **changes: Any) -> AsyncIterator[Site]:
    """`of_linkerd`: its trust anchors are those of Linkerd's ConfigMap, and not of a file."""
    authority, clock = Authority(folder), SystemClock()
    options = config(authority, lease=30.0, namespace=NAMESPACE, **changes)
    async with cluster().client() as client:
        store = KubernetesStore(client)
        for name in ("face", "smiley"):
            await store.buoyant_groups.create(group(name))
        with structlog.testing.capture_logs() as log:
            facts = None
            if of_linkerd:
                trust(authority)
                options = dataclasses.replace(options, trust_anchors="", kubernetes=True)
                facts = Cluster(client, clock, ClusterFacts(), "linkerd")
            made = Controller(options, store, clock, cluster=facts)
            async with made as controller, asyncio.timeout(60):
                yield Site(controller, authority, log, authority.issue("face", FACE))
        await store.flush()


@pytest.fixture(autouse=True, scope="module")
def clean_before() -> None:
    """Other modules leave workloads at the API server that this process has for all of them: an address has one workload."""
    cluster().kubectl("-n", "faces", "delete", "externalworkloads.workload.linkerd.io", "--all")


@pytest.fixture(autouse=True)
def clean() -> object:
    yield
    groups = f"externalgroups.{BUOYANT_GROUP_API.partition('/')[0]}"
    for namespace, kinds in (("faces", f"{groups},externalworkloads.workload.linkerd.io"), (NAMESPACE, "leases")):
        cluster().kubectl("-n", namespace, "delete", kinds, "--all")
    cluster().kubectl("-n", "linkerd", "delete", "configmap", ROOTS, "--ignore-not-found")


def test_all_are_refused_and_the_cluster_stays_as_it_was(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with site(tmp_path) as s:
            victim = await s.join()
            await s.call("POST", path_of(victim) + "/state", report(1), secret_of(victim))
            workloads = s.controller.store.workloads
            before = (await workloads.list()).items
            assert before[0].ready
            for name in HOSTILE.keys() - ALONE:
                expected, attack = HOSTILE[name]
                answer = await attack(s, victim)
                assert answer.code in expected.split(" or ") and answer.status == CODES[answer.code], name
                assert victim["secret"] not in json.dumps(answer.body), name
                assert (await workloads.list()).items == before, name
            assert (await s.call("POST", path_of(victim) + "/state", report(7), secret_of(victim))).status == 204
            everything = json.dumps(s.log, default=str) + caplog.text + "".join(capfd.readouterr())
            assert victim["secret"] not in everything and "Traceback" not in everything
            events = cluster().kubectl("-n", "faces", "get", "events", "-o", "json")
            assert victim["secret"] not in events

    asyncio.run(main())


def test_an_anchor_that_leaves_linkerds_bundle_counts_no_more(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        async with site(tmp_path, of_linkerd=True) as s:
            other = Authority(tmp_path, "other")
            context = s.authority.client(other.issue("face", FACE))
            with pytest.raises((OSError, EOFError)):
                await s.join(context)
            await asyncio.to_thread(trust, s.authority, other)
            while len(s.controller.fleet.facts.trust_anchors_pem.split("BEGIN CERTIFICATE")) < 3:
                await asyncio.sleep(0.05)
            made = await s.join(context)
            held = asyncio.create_task(s.call("GET", f"{path_of(made)}?after={made['version']}", None, secret_of(made)))
            await asyncio.to_thread(trust)
            while not [line for line in s.log if line["event"] == "trust anchors not read; the old ones stay in force"]:
                await asyncio.sleep(0.05)
            assert (await s.call("GET", path_of(made), None, secret_of(made), context=context)).status == 200
            while held.done():  # by its time, which a busy machine takes: with the same version, and it is held again
                assert held.result().body["version"] == made["version"], "a bundle without certificates changes nothing"
                held = asyncio.create_task(s.call("GET", f"{path_of(made)}?after={made['version']}", None, secret_of(made)))
                await asyncio.sleep(0)
            began = time.monotonic()
            await asyncio.to_thread(trust, s.authority)
            assert (await held).body["facts"]["trust_anchors_pem"] == pathlib.Path(s.authority.anchors).read_text()
            print(f"\nfrom the ConfigMap to the machines: {time.monotonic() - began:.2f} s, kubectl included")
            with pytest.raises((OSError, EOFError)):
                await s.call("GET", path_of(made), None, secret_of(made), context=context)
            assert (await s.call("GET", path_of(made), None, secret_of(made))).status == 200

    asyncio.run(main())


def test_a_machine_with_ipv6_alone(tmp_path: pathlib.Path) -> None:
    """It reaches the controller by IPv6, and its ExternalWorkload has that address."""

    async def main() -> None:
        async with site(tmp_path, listen=HostPort("::1", 0)) as s:
            context = s.context(FACE)
            context.check_hostname = False
            made = await s.join(context, addresses=["fd00:9:0::5"])
            assert (await s.call("POST", path_of(made) + "/state", report(1), secret_of(made), context=context)).status == 204
            workload = json.loads(cluster().kubectl("-n", "faces", "get", "externalworkload", made["name"], "-o", "json"))
            assert workload["spec"]["workloadIPs"] == [{"ip": "fd00:9::5"}]
            assert [(c["type"], c["status"]) for c in workload["status"]["conditions"]] == [("Ready", "True")]
            taken = REQUEST | {"instance_id": "two", "addresses": ["fd00:9::0005"]}
            assert (await s.call("POST", "/v1/workloads", taken, context=context)).code == "address-taken"
            local = REQUEST | {"instance_id": "two", "addresses": ["fe80::5"]}
            assert (await s.call("POST", "/v1/workloads", local, context=context)).code == "address-not-allowed"

    asyncio.run(main())
