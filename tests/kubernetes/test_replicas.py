"""Replicas as processes on a real API server, under the manifests' rights: what a fleet notices of their lives and deaths."""

from __future__ import annotations

import asyncio
import datetime
import json
import pathlib
import signal
import time
from typing import Any

import yaml

from controller.model import micro_time
from harness.values import parse_host_port
from tests.controller_support import TRUST_DOMAIN, Answer, Client
from tests.kubernetes_site import Site
from tests.kubernetes_support import ROOT, cluster, spawn
from tests.ports import free_port
from tests.waiting import wait


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
    wait(lambda: sum(map(ready, workloads())) == 60)
    wait(lambda: group_ready() == "60/60")
    before = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in workloads()}
    site.kill("a")
    killed = time.monotonic()
    wait(lambda: bool(site.replicas["b"].lines("leading")))
    print(f"\nled again after {time.monotonic() - killed:.1f} s")
    wait(lambda: fleet("state")["places"] == {"1": 60})
    state = fleet("state")
    assert set(state["connects"]) <= {"1", "2"} and state["refusals"] == []  # one reconnect each at most
    site.group(drainSeconds=9, template={"metadata": {"labels": {"service": "face"}}, "ports": [{"name": "http", "port": 8000}]})
    time.sleep(2)
    after = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in workloads()}
    assert after == before  # nobody lost, nobody written
    owners = json.loads(cluster().kubectl("-n", "meshexp", "get", "leases", "-o", "json"))["items"]
    wait(lambda: site.replicas["b"].process.poll() is None)
    assert sum(lease["metadata"]["name"].startswith("machine.") for lease in owners) == 60


def test_a_clean_stop_hands_over_at_once(site: Site) -> None:
    site.group()
    site.start("a")
    site.start("b")
    fleet = site.fleet("a", "b")
    fleet("join", count=10)
    site.replicas["a"].process.terminate()
    assert site.replicas["a"].process.wait(60) == 0
    lease = json.loads(cluster().kubectl("-n", "meshexp", "get", "lease", "leader", "-o", "json"))
    assert lease["spec"].get("holderIdentity") != "a", "it has not only let it run out"
    seconds = wait(lambda: bool(site.replicas["b"].lines("leading")))
    wait(lambda: fleet("state")["places"] == {"1": 10})
    print(f"\nled again after {seconds:.1f} s")
    assert sum(map(ready, workloads())) == 10 and fleet("state")["refusals"] == []


def test_a_group_edit_reaches_workloads_and_its_deletion_removes_them(site: Site) -> None:
    site.group()
    site.start("a")
    fleet = site.fleet("a")
    fleet("join", count=5)
    template = {"metadata": {"labels": {"service": "other"}}, "ports": [{"name": "http", "port": 9000}]}
    site.group(template=template)
    seconds = wait(lambda: all(i["metadata"]["labels"]["service"] == "other" for i in workloads()))
    assert all(item["spec"]["ports"] == [{"name": "http", "port": 9000, "protocol": "TCP"}] for item in workloads())
    print(f"\nedit to ExternalWorkloads: {seconds:.2f} s")
    cluster().kubectl("-n", "faces", "delete", "eg", "face")
    wait(lambda: workloads() == [])
    site.group()
    wait(lambda: sum(map(ready, workloads())) == 5, 60)  # they come back by themselves
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
    wait(lambda: group_ready() == "0/1")
    text = cluster().kubectl("-n", "faces", "describe", "eg", "face")
    for word in ("Joined", "ProbeFailed", "SomeNotReady" if "1/" in group_ready() else "NotReady", "Accepted"):
        assert word in text


def test_the_configured_namespace_goes_before_the_kubeconfigs(site: Site) -> None:
    """It has rights in its own alone: in the context's namespace it could not even list Leases."""
    data = yaml.safe_load(pathlib.Path(site.kubeconfig).read_text())
    data["contexts"][0]["context"]["namespace"] = "default"
    elsewhere = site.folder / "elsewhere.kubeconfig"
    elsewhere.write_text(yaml.safe_dump(data))
    site.start("a", kubeconfig=str(elsewhere), namespace="meshexp")
    names = json.loads(cluster().kubectl("-n", "meshexp", "get", "leases", "-o", "json"))["items"]
    assert {lease["metadata"]["name"] for lease in names} == {"leader", "replica.a"}
    assert site.replicas["a"].lines("leading") and not site.replicas["a"].lines("store lost")


def test_a_fleet_over_two_replicas_that_falls_silent_at_once_marks_nobody(site: Site) -> None:
    """Each replica hears too few for a guard of its own; the machines stand still, with their connections open."""
    site.group(template={"ports": [{"port": 8000}]}, leaseSeconds=6)
    site.start("a")
    site.start("b")
    fleet = site.fleet("a", "b")
    fleet("join", count=16)
    wait(lambda: sum(map(ready, workloads())) == 16)
    site.fleets[0].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    while time.monotonic() - stopped < 14:
        assert sum(map(ready, workloads())) == 16, f"marked {time.monotonic() - stopped:.1f} s after the silence began"
        time.sleep(0.5)
    site.fleets[0].send_signal(signal.SIGCONT)
    time.sleep(3)
    assert sum(map(ready, workloads())) == 16 and fleet("state")["refusals"] == []
    silent = fleet("silence", number=3)["name"]
    wait(lambda: [i["metadata"]["name"] for i in workloads() if not ready(i)] == [silent], 60)  # and one alone counts again


def test_a_groups_maximum_holds_over_two_replicas_while_nobody_leads(site: Site) -> None:
    maximum, asked = 5, 12
    site.group(template={"ports": [{"port": 8000}]}, admission={"maximum": maximum})
    for name in ("leader", "a", "b"):
        site.start(name)
    site.kill("leader")
    context = site.authority.client(site.authority.issue("vm", f"spiffe://{TRUST_DOMAIN}/face"))
    context.check_hostname = False

    async def join(place: str, number: int) -> Answer:
        request = {
            "group": "face", "namespace": "faces", "instance_id": f"{place}{number}", "hostname": "vm",
            "addresses": [f"10.128.{ord(place)}.{number + 1}"],
        }  # fmt: skip
        async with await Client.connect(parse_host_port(site.replicas[place].address), context) as client:
            return await client.call("POST", "/v1/workloads", request)

    async def main() -> list[Answer]:
        return await asyncio.gather(*(join(place, number) for number in range(asked) for place in "ab"))

    answers = asyncio.run(main())
    let_in = {answer.body["name"] for answer in answers if answer.status == 201}
    assert {answer.code for answer in answers if answer.status != 201} == {"quota-exceeded"}
    kept = {item["metadata"]["name"] for item in workloads()}
    assert len(kept) == maximum and kept == let_in
    tried = sum(len(replica.lines("workload deleted")) for replica in site.replicas.values())
    led = any(replica.lines("leading") for replica in site.replicas.values())
    print(f"\n{maximum} were let in by two replicas at once, and {tried} more looked at; another led already: {led}")


def used(name: str, seconds_ago: float, duration: float) -> str:
    began = datetime.datetime.now(datetime.UTC).timestamp() - seconds_ago
    spec = {"holderIdentity": "digest", "renewTime": micro_time(began), "leaseDurationSeconds": int(duration)}
    metadata = {"name": f"used.faces.face.{name}", "namespace": "meshexp"}
    return yaml.safe_dump({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})


def test_leases_of_used_invitations_go_an_hour_after_their_time(site: Site) -> None:
    def names() -> set[str]:
        items = json.loads(cluster().kubectl("-n", "meshexp", "get", "leases", "-o", "json"))["items"]
        return {name for item in items if (name := item["metadata"]["name"]).startswith("used.")}

    for lease in (used("over", 7300, 3600), used("margin", 7000, 3600), used("valid", 60, 3600)):
        cluster().kubectl("apply", "-f", "-", given=lease)
    site.start("a")
    wait(lambda: names() == {"used.faces.face.margin", "used.faces.face.valid"})
    time.sleep(2)
    assert names() == {"used.faces.face.margin", "used.faces.face.valid"}


def test_one_that_still_waits_for_its_certificate_stops_when_asked(site: Site) -> None:
    path, log = site.folder / "waiting.yaml", site.folder / "waiting.log"
    config = {
        "kubernetes": True, "kubeconfig": site.kubeconfig, "trust_anchors": site.authority.anchors, "replica": "waiting",
        "identity_address": f"127.0.0.1:{free_port()}", "listen": f"127.0.0.1:{free_port()}",
        "health_listen": f"127.0.0.1:{free_port()}", "identity_token": site.server[1],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(config))
    command = ("env", f"PYTHONPATH={ROOT}", site.python, "-m", "controller", "run", f"--config={path}")
    process = spawn(site.folder, "waiting", *command)
    wait(lambda: "no certificate from Linkerd" in log.read_text(), 20, log.read_text)
    process.terminate()
    assert process.wait(60) == 0 and "Traceback" not in log.read_text()
    names = cluster().kubectl("-n", "meshexp", "get", "leases", "-o", "name")
    assert "replica.waiting" not in names  # it has said so to the others
