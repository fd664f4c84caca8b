"""The cluster's side of `check`: definitions, the controller, its leases, the groups. Gathering is I/O, judging pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controller import manifest, model, roll, summary
from controller.installed import Installed
from controller.kubernetes.client import Client
from controller.kubernetes.collection import KubernetesCollection
from controller.model import ExternalWorkload, Lease
from controller.replicas import REPLICA, is_alive
from controller.roll import Machine
from controller.store import NotFoundError, RefusedCallError
from harness import check_problems as problems
from harness.check.report import Judge, Result, Untried
from harness.errors import HarnessError

OUR_CRD = "externalgroups.workload.meshexp.io"
CRDS = {OUR_CRD: "v1alpha1", "externalworkloads.workload.linkerd.io": "v1beta1"}
COMES_BY_ITSELF = frozenset(
    {
        problems.API_UNREACHABLE.code,
        problems.CRD_MISSING.code,
        problems.CONTROLLER_NOT_READY.code,
        problems.MACHINE_NOT_HEARD.code,
    }
)
"""What passes while a cluster starts, or while the controller is replaced. For the rest somebody must do something."""
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """`error`: why nothing could be seen, and `final` that asking again would not help. `wall`: by the API server's clock.

    `served`: by definition, its versions. `groups`: as they are in the cluster. `machines`: with whether a replica hears them.
    """

    error: str = "nobody has looked"
    final: bool = False
    wall: float = 0.0
    served: tuple[tuple[str, tuple[str, ...]], ...] = ()
    deployment: Mapping[str, Any] | None = None
    leases: tuple[Lease, ...] = ()
    groups: tuple[Object, ...] = ()
    machines: tuple[Machine, ...] | Untried = ()

    @property
    def is_installed(self) -> bool:
        """Whether the cluster has anything of ours."""
        return bool(self.deployment or self.leases or dict(self.served).get(OUR_CRD))


async def gather(client: Client, namespace: str, groups_in: str = "") -> Facts:
    """`namespace`: the controller's. `groups_in`: the only namespace whose groups and machines are looked at, all if empty."""
    place = f"namespaces/{groups_in}/" if groups_in else ""
    try:
        served = [(name, await _versions(client, name)) for name in CRDS]
        deployments = await Installed(client, namespace).deployments()
        found = await _items(client, f"/apis/{model.LEASE_API}/namespaces/{namespace}/leases")
        leases = tuple(map(model.lease_from_object, found))
        groups = [group for api in manifest.GROUP_APIS for group in await _items(client, f"/apis/{api}/{place}externalgroups")]
        machines = await _machines(client, leases, groups_in)
    except RefusedCallError as error:
        return Facts(error=error.message, final=True)
    except HarnessError as error:
        return Facts(error=error.message)
    return Facts("", False, client.server_wall, tuple(served), next(iter(deployments), None), leases, tuple(groups), machines)


async def _machines(client: Client, leases: tuple[Lease, ...], namespace: str) -> tuple[Machine, ...] | Untried:
    """Who may not read ExternalWorkloads can still see the rest."""
    workloads: KubernetesCollection[ExternalWorkload] = KubernetesCollection(
        client, model.WORKLOAD_API, "externalworkloads", model.workload_from_object, namespace=namespace
    )
    try:
        return roll.machines((await workloads.list()).items, leases, client.server_wall)
    except NotFoundError:
        return ()  # without Linkerd's definition there can be none
    except RefusedCallError as error:
        return Untried(error.message)


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


def judge(facts: Facts, namespace: str) -> Iterator[Result]:
    to, wall = Judge("meshexp"), facts.wall
    yield to.found("can query the Kubernetes API", problems.API_UNREACHABLE, filter(None, [facts.error]), tried=True)
    if facts.error:
        return
    served = dict(facts.served)
    missing = [f"{name} ({version})" for name, version in CRDS.items() if version not in served.get(name, ())]
    yield to.found("the resource definitions are there", problems.CRD_MISSING, missing, tried=True)
    unready = _deployment(facts.deployment)
    yield to.found(f"the controller is ready in {namespace}", problems.CONTROLLER_NOT_READY, unready, tried=True)
    replicas = [lease for lease in facts.leases if lease.metadata.name.startswith(REPLICA)]
    alive = [lease for lease in replicas if is_alive(lease, wall)]
    stale = (_stamp(lease, wall) for lease in replicas if lease not in alive)
    why = f"no replica of the controller has a lease in {namespace}"
    yield to.found("the controller's leases are fresh", problems.LEASE_STALE, stale, tried=bool(replicas), why=why)
    yield _judge_machines(to, facts.machines)
    yield _judge_groups(to, "the groups are accepted", problems.GROUP_INVALID, facts, "Accepted", ())
    fine = ("NoWorkloads", summary.SHADOWED)  # the latter is not accepted, which is said above
    text = "the groups' machines are ready"
    if alive:
        yield _judge_groups(to, text, problems.GROUP_NOT_READY, facts, "Ready", fine)
    else:
        yield to.skipped(text, "no replica of the controller is alive: what the groups say of their machines may be old")


def _judge_machines(to: Judge, machines: tuple[Machine, ...] | Untried) -> Result:
    text = "a replica of the controller hears each machine"
    if isinstance(machines, Untried):
        return to.skipped(text, machines.why)
    unheard = (f"{one.namespace}/{one.name}: {one.message}" for one in machines if one.ready is None)
    return to.found(text, problems.MACHINE_NOT_HEARD, unheard, tried=bool(machines), why="no machine has joined")


def _stamp(lease: Lease, wall: float) -> str:
    ago = wall - lease.renewed
    if ago < 0:
        return f"{lease.metadata.name}, stamped {-ago:.0f} s in the future: the clocks of its node and of the API server differ"
    return f"{lease.metadata.name}, renewed {ago:.0f} s ago"


def _judge_groups(to: Judge, text: str, problem: problems.Problem, facts: Facts, kind: str, fine: tuple[str, ...]) -> Result:
    """The result for one condition, which the controller sets on each group. `fine`: reasons for which it may be False."""
    groups = facts.groups
    silent = [_name(group) for group in groups if kind not in {one["type"] for one in _decided(group)}]
    why = f"the controller has not decided it for {', '.join(silent)}" if groups else "there are no groups"
    return to.found(text, problem, _conditions(groups, kind, fine), tried=bool(groups) and not silent, why=why)


def _deployment(deployment: Mapping[str, Any] | None) -> Iterator[str]:
    if deployment is None:
        yield "there is no Deployment of the controller"
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
