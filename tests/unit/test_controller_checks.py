"""What `linkerd meshexp check` says of what it has seen of a cluster."""

from __future__ import annotations

import dataclasses
from typing import Any

from controller import checks
from controller.checks import CRDS, Facts
from controller.model import Lease, Metadata
from controller.replicas import REPLICA
from controller.roll import NOT_HEARD, Machine

WALL = 1_000_000.0


def codes(facts: Facts) -> dict[str, str]:
    results = checks.judge(facts, "meshexp")
    return {result.problem.code: result.reason for result in results if result.problem is not None}


def cluster(**changes: Any) -> Facts:
    """One in which all is well, but for the changes."""
    served = tuple((name, (version,)) for name, version in CRDS.items())
    deployment = {"spec": {"replicas": 2}, "status": {"readyReplicas": 2}}
    well: dict[str, Any] = {
        "error": "",
        "wall": WALL,
        "served": served,
        "deployment": deployment,
        "leases": (lease("a", 2.0),),
        "groups": (group(),),
    }
    return Facts(**{**well, **changes})


def lease(replica: str, ago: float) -> Lease:
    return Lease(Metadata(f"{REPLICA}{replica}", "meshexp"), replica, WALL - ago, 10.0)


def group(**conditions: tuple[str, str]) -> dict[str, Any]:
    found = [{"type": name, "status": "False", "reason": reason, "message": text} for name, (reason, text) in conditions.items()]
    return {"metadata": {"namespace": "faces", "name": "face"}, "status": {"conditions": found}}


def test_all_is_well() -> None:
    assert codes(cluster()) == {}
    assert codes(cluster(groups=(group(Ready=("NoWorkloads", "no machine has joined")),))) == {}


def outcomes(facts: Facts) -> dict[str, str]:
    return {result.description: result.outcome.name for result in checks.judge(facts, "meshexp")}


def test_what_groups_say_counts_only_while_somebody_would_change_it() -> None:
    text = "the groups' machines are ready"
    ready = {"metadata": group()["metadata"], "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert outcomes(cluster(groups=(ready,)))[text] == "PASSED"
    for leases in ((), (lease("a", 31.0),), (lease("a", -31.0),)):
        assert outcomes(cluster(groups=(ready,), leases=leases))[text] == "SKIPPED", leases
    assert codes(cluster(leases=(lease("a", -90.0),)))["lease-stale"].startswith(f"{REPLICA}a, stamped 90 s in the future")


def test_a_machine_that_no_replica_hears() -> None:
    known = Machine("faces", "face-1", "face", "", "", "vm1", {}, True, "Ready", "", "", "a", "")
    unheard = dataclasses.replace(known, name="face-2", ready=None, reason=NOT_HEARD, message="nobody")
    assert codes(cluster(machines=(known,))) == {}
    assert codes(cluster(machines=(known, unheard))) == {"machine-not-heard": "faces/face-2: nobody"}


def test_each_thing_that_is_wrong() -> None:
    assert codes(Facts(error="no way")) == {"api-unreachable": "no way"}
    assert "externalgroups" in codes(cluster(served=()))["crd-missing"]
    assert codes(cluster(served=tuple((name, ("v1",)) for name in CRDS))).keys() == {"crd-missing"}
    assert codes(cluster(deployment=None))["controller-not-ready"] == "there is no Deployment of the controller"
    assert codes(cluster(deployment={"spec": {}}))["controller-not-ready"] == "0 of 1 replicas are ready"
    stale = cluster(leases=(lease("a", 2.0), lease("b", 99.0)))
    assert codes(stale) == {"lease-stale": f"{REPLICA}b, renewed 99 s ago"}
    assert codes(cluster(groups=(group(Accepted=("Invalid", "spec.x: no such field")),))) == {
        "group-invalid": "faces/face: spec.x: no such field"
    }
    assert codes(cluster(groups=(group(Ready=("SomeNotReady", "1 Cordoned")),))) == {"group-not-ready": "faces/face: 1 Cordoned"}
