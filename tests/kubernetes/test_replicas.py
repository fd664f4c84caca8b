"""Replicas as processes on a real API server, under the manifests' rights: what a fleet notices of their lives and deaths."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.kubernetes_site import Site, wait
from tests.kubernetes_support import cluster


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    made = Site(cluster(), tmp_path)
    try:
        yield made
    finally:
        made.close()


def workloads() -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(cluster().kubectl("-n", "faces", "get", "externalworkloads", "-o", "json"))["items"]
    return items


def ready(item: dict[str, Any]) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def group_ready() -> str:
    return cluster().kubectl("-n", "faces", "get", "eg", "face", "-o", "jsonpath={.status.ready}")


def test_a_fleet_joins_two_replicas_and_outlives_the_leader(site: Site) -> None:
    site.group()
    site.start("a")
    site.start("b")
    assert site.replicas["a"].lines("leading") and not site.replicas["b"].lines("leading")
    fleet = site.fleet("a", "b")
    fleet("join", count=60)
    wait(lambda: sum(map(ready, workloads())) == 60, 5)
    wait(lambda: group_ready() == "60/60", 5)
    before = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in workloads()}
    site.kill("a")
    killed = time.monotonic()
    wait(lambda: bool(site.replicas["b"].lines("leading")), 15)
    print(f"\nled again after {time.monotonic() - killed:.1f} s")
    wait(lambda: fleet("state")["places"] == {"1": 60}, 15)
    state = fleet("state")
    assert set(state["connects"]) <= {"1", "2"} and state["refusals"] == []  # one reconnect each at most
    site.group(drainSeconds=9, template={"metadata": {"labels": {"service": "face"}}, "ports": [{"name": "http", "port": 8000}]})
    time.sleep(2)
    after = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in workloads()}
    assert after == before  # nobody lost, nobody written
    owners = json.loads(cluster().kubectl("-n", "meshexp", "get", "leases", "-o", "json"))["items"]
    wait(lambda: site.replicas["b"].process.poll() is None, 1)
    assert sum(lease["metadata"]["name"].startswith("machine.") for lease in owners) == 60


def test_a_clean_stop_hands_over_at_once(site: Site) -> None:
    site.group()
    site.start("a")
    site.start("b")
    fleet = site.fleet("a", "b")
    fleet("join", count=10)
    site.replicas["a"].process.terminate()
    seconds = wait(lambda: bool(site.replicas["b"].lines("leading")), 6)
    assert site.replicas["a"].process.wait(10) == 0
    wait(lambda: fleet("state")["places"] == {"1": 10}, 10)
    print(f"\nled again after {seconds:.1f} s")
    assert sum(map(ready, workloads())) == 10 and fleet("state")["refusals"] == []


def test_a_group_edit_reaches_workloads_within_two_seconds_and_its_deletion_removes_them(site: Site) -> None:
    site.group()
    site.start("a")
    fleet = site.fleet("a")
    fleet("join", count=5)
    template = {"metadata": {"labels": {"service": "other"}}, "ports": [{"name": "http", "port": 9000}]}
    site.group(template=template)
    seconds = wait(lambda: all(i["metadata"]["labels"]["service"] == "other" for i in workloads()), 2)
    assert all(item["spec"]["ports"] == [{"name": "http", "port": 9000, "protocol": "TCP"}] for item in workloads())
    print(f"\nedit to ExternalWorkloads: {seconds:.2f} s")
    cluster().kubectl("-n", "faces", "delete", "eg", "face")
    wait(lambda: workloads() == [], 3)
    site.group()
    wait(lambda: sum(map(ready, workloads())) == 5, 20)  # they come back by themselves
    assert all(item["metadata"]["ownerReferences"][0]["kind"] == "ExternalGroup" for item in workloads())


def test_a_group_edit_by_kubectl_that_is_invalid_never_reaches_anybody(site: Site) -> None:
    site.group()
    site.start("a")
    site.fleet("a")("join", count=2)
    patch = yaml.safe_dump({"spec": {"probes": [{}]}})
    said = cluster().kubectl("-n", "faces", "patch", "eg", "face", "--type=merge", "-p", patch, check=False)
    assert "exactly one" in said and len(workloads()) == 2


def test_events_and_status_tell_the_story(site: Site) -> None:
    site.group(admission={"maximum": 1}, template={"ports": [{"port": 8000}]})
    site.start("a")
    fleet = site.fleet("a")
    fleet("join", count=1)
    fleet("flip", number=0, ready=False)
    wait(lambda: group_ready() == "0/1", 3)
    text = cluster().kubectl("-n", "faces", "describe", "eg", "face")
    for word in ("Joined", "ProbeFailed", "SomeNotReady" if "1/" in group_ready() else "NotReady", "Accepted"):
        assert word in text
