"""The cluster's side of `check`: definitions, the controller, its leases, the groups. Gathering is I/O, judging pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from controller import manifest, model
from controller.kubernetes.client import Client
from controller.model import Lease
from controller.replicas import REPLICA
from controller.store import NotFoundError
from harness import check_problems as problems
from harness.check.report import Judge, Result
from harness.errors import HarnessError

CRDS = {"externalgroups.workload.meshexp.io": "v1alpha1", "externalworkloads.workload.linkerd.io": "v1beta1"}
STALE_SECONDS = 30.0
"""A replica renews every 2 s; the rest is for this clock being another than the cluster's."""
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """`error`: why nothing could be seen. `served`: by definition, its versions. `groups`: as they are in the cluster."""

    error: str = "nobody has looked"
    served: tuple[tuple[str, tuple[str, ...]], ...] = ()
    deployment: Object | None = None
    leases: tuple[Lease, ...] = ()
    groups: tuple[Object, ...] = ()


async def gather(client: Client, namespace: str) -> Facts:
    try:
        served = [(name, await _versions(client, name)) for name in CRDS]
        deployment = await _get(client, f"/apis/apps/v1/namespaces/{namespace}/deployments/meshexp-controller")
        leases = await _items(client, f"/apis/{model.LEASE_API}/namespaces/{namespace}/leases")
        groups = [group for api in manifest.GROUP_APIS for group in await _items(client, f"/apis/{api}/externalgroups")]
    except HarnessError as error:
        return Facts(error=error.message)
    return Facts("", tuple(served), deployment, tuple(map(model.lease_from_object, leases)), tuple(groups))


async def _versions(client: Client, name: str) -> tuple[str, ...]:
    found = await _get(client, f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
    return tuple(v["name"] for v in found["spec"]["versions"] if v.get("served")) if found else ()


async def _get(client: Client, path: str) -> Object | None:
    try:
        found: Object = await client.get(path)
    except NotFoundError:
        return None
    return found


async def _items(client: Client, path: str) -> list[Object]:
    found = await _get(client, path)
    return list(found["items"]) if found else []


def judge(facts: Facts, namespace: str, wall: float) -> Iterator[Result]:
    to = Judge("meshexp")
    yield to.found("can query the Kubernetes API", problems.API_UNREACHABLE, filter(None, [facts.error]), tried=True)
    if facts.error:
        return
    served = dict(facts.served)
    missing = [f"{name} ({version})" for name, version in CRDS.items() if version not in served.get(name, ())]
    yield to.found("the resource definitions are there", problems.CRD_MISSING, missing, tried=True)
    unready = _deployment(facts.deployment)
    yield to.found(f"the controller is ready in {namespace}", problems.CONTROLLER_NOT_READY, unready, tried=True)
    replicas = [lease for lease in facts.leases if lease.metadata.name.startswith(REPLICA)]
    stale = [lease for lease in replicas if wall - lease.renewed > STALE_SECONDS]
    text = (f"{one.metadata.name}, renewed {wall - one.renewed:.0f} s ago" for one in stale)
    why = f"no replica of the controller has a lease in {namespace}"
    yield to.found("the controller's leases are fresh", problems.LEASE_STALE, text, tried=bool(replicas), why=why)
    yield _judge_groups(to, "the groups are accepted", problems.GROUP_INVALID, facts.groups, "Accepted", ())
    fine = ("NoWorkloads",)
    yield _judge_groups(to, "the groups' machines are ready", problems.GROUP_NOT_READY, facts.groups, "Ready", fine)


def _judge_groups(
    to: Judge, text: str, problem: problems.Problem, groups: tuple[Object, ...], kind: str, fine: tuple[str, ...]
) -> Result:
    """The result for one condition, which the controller sets on each group. `fine`: reasons for which it may be False."""
    silent = [_name(group) for group in groups if kind not in {one["type"] for one in _decided(group)}]
    why = f"the controller has not decided it for {', '.join(silent)}" if groups else "there are no groups"
    return to.found(text, problem, _conditions(groups, kind, fine), tried=bool(groups) and not silent, why=why)


def _deployment(deployment: Object | None) -> Iterator[str]:
    if deployment is None:
        yield "there is no Deployment meshexp-controller"
        return
    wanted, ready = deployment["spec"].get("replicas", 1), deployment.get("status", {}).get("readyReplicas", 0)
    if ready < max(1, wanted):
        yield f"{ready} of {wanted} replicas are ready"


def _conditions(groups: tuple[Object, ...], kind: str, fine: tuple[str, ...]) -> Iterator[str]:
    """Groups of which a condition is False, but for the reasons that are fine."""
    for group in groups:
        for condition in _decided(group):
            if condition["type"] == kind and condition["status"] == "False" and condition["reason"] not in fine:
                yield f"{_name(group)}: {condition.get('message') or condition['reason']}"


def _decided(group: Object) -> list[Object]:
    """Its conditions that are not Unknown."""
    return [one for one in group.get("status", {}).get("conditions", ()) if one["status"] in ("True", "False")]


def _name(group: Object) -> str:
    return f"{group['metadata']['namespace']}/{group['metadata']['name']}"
