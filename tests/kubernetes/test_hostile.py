"""The table of hostile requests again, with the objects in a real API server: nothing of them changes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator

import pytest
import structlog

from controller.app import Controller
from controller.kubernetes.store import KubernetesStore
from controller.manifest import BUOYANT_GROUP_API
from harness.clock import SystemClock
from harness.messages import CODES
from tests.children.test_controller_server import FACE, HOSTILE, Site, config, path_of, report, secret_of
from tests.controller_support import Authority, group
from tests.kubernetes_support import NAMESPACE, cluster


@contextlib.asynccontextmanager
async def site(folder: pathlib.Path) -> AsyncIterator[Site]:
    authority, clock = Authority(folder), SystemClock()
    async with cluster().client() as client:
        store = KubernetesStore(client)
        for name in ("face", "smiley"):
            await store.buoyant_groups.create(group(name))
        with structlog.testing.capture_logs() as log:
            made = Controller(config(authority, lease=30.0, namespace=NAMESPACE), store, clock)
            async with made as controller, asyncio.timeout(60):
                yield Site(controller, authority, log, authority.issue("face", FACE))
        await store.flush()


@pytest.fixture(autouse=True)
def clean() -> object:
    yield
    groups = f"externalgroups.{BUOYANT_GROUP_API.partition('/')[0]}"
    for namespace, kinds in (("faces", f"{groups},externalworkloads.workload.linkerd.io"), (NAMESPACE, "leases")):
        cluster().kubectl("-n", namespace, "delete", kinds, "--all")


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
            for name, (expected, attack) in HOSTILE.items():
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
