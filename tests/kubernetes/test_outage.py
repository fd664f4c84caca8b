"""The API server goes away and comes back, under a controller that holds machines."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import kubernetes_support
from tests.kubernetes_site import Site
from tests.kubernetes_support import CRDS, Cluster, end
from tests.waiting import wait


@pytest.fixture
def own(tmp_path: pathlib.Path) -> Iterator[tuple[Site, Cluster]]:
    """A cluster that may be broken."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    made = kubernetes_support.start(folder)
    made.apply(*CRDS)
    made.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    site = Site(made, tmp_path)
    try:
        yield site, made
    finally:
        site.close()
        for process in made.processes.values():
            end(process)


def states(made: Cluster) -> dict[str, str]:
    items: list[dict[str, Any]] = json.loads(made.kubectl("-n", "faces", "get", "externalworkloads", "-o", "json"))["items"]
    return {i["metadata"]["name"]: i.get("status", {}).get("conditions", [{}])[0].get("status", "") for i in items}


def test_a_lost_api_server_marks_nobody_and_what_happened_meanwhile_is_written(own: tuple[Site, Cluster]) -> None:
    site, made = own
    site.group(template={"ports": [{"port": 8000}]}, leaseSeconds=3)
    site.start("a")
    fleet = site.fleet("a")
    fleet("join", count=12)
    wait(lambda: list(states(made).values()) == ["True"] * 12)
    made.stop_apiserver()
    lost = time.monotonic()
    wait(lambda: bool(site.replicas["a"].lines("lease not renewed")))
    time.sleep(max(0.0, 15 - (time.monotonic() - lost)))  # five leases
    assert fleet("state")["connected"] == 12  # they are held all the while
    made.start_apiserver()
    wait(lambda: "True" in states(made).values())
    for _ in range(10):
        assert set(states(made).values()) == {"True"}
        time.sleep(0.3)
    assert site.replicas["a"].process.poll() is None
    flip = fleet("flip", number=1, ready=False)
    wait(lambda: states(made)[flip["name"]] == "False")
    silent = fleet("silence", number=2)["name"]
    wait(lambda: states(made)[silent] == "False", 60)  # and silence counts again
