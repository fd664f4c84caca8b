"""Objects of the API server that are not as their kind says: each is passed over by itself, is told of, and ends nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from controller import leases, roll
from controller.embedded_store import EmbeddedCollection
from controller.following import follow
from controller.kubernetes import foreign
from controller.kubernetes.access import Access
from controller.kubernetes.client import Client
from controller.kubernetes.cluster import Sources, facts, gaps, own_networks
from controller.kubernetes.collection import KubernetesCollection
from controller.kubernetes.store import KubernetesStore
from controller.manifest import ExternalGroup
from controller.model import Lease, lease_from_object
from controller.refusals import Refusals
from controller.replicas import LEASE_SECONDS, RENEW_SECONDS, REPLICA
from controller.store import Change, Listing, NotFoundError, RefusedCallError
from harness.messages import ClusterFacts, PodRoute
from harness.values import parse_address, parse_network
from tests.controller_support import StandingClock, group, settle
from tests.unit.controller_world import run
from tests.unit.replica_site import Site


def node(name: str, cidr: Any, *addresses: Any) -> dict[str, Any]:
    entries = [{"type": "InternalIP", "address": address} for address in addresses]
    return {"metadata": {"name": name}, "spec": {"podCIDR": cidr}, "status": {"addresses": entries}}


GOOD = node("good", "10.42.0.0/24", "10.9.0.1")
ROUTE = PodRoute(parse_network("10.42.0.0/24"), parse_address("10.9.0.1"))
BAD_NODES = (
    node("no-address", "10.42.1.0/24", "not-an-address"),
    node("a-number", "10.42.1.0/24", 5),
    node("with-a-zone", "fd42::/64", "fe80::1%eth0"),
    node("no-network", "10.42.1.5/24", "10.9.0.2"),
    node("a-surrogate", "\ud800", "\udfff"),
    {"metadata": {"name": "a-list"}, "spec": [], "status": {"addresses": {"InternalIP": "10.9.0.2"}}},
    {"metadata": {"name": "entries"}, "spec": {"podCIDRs": "10.42.1.0/24"}, "status": {"addresses": [7, None, {}]}},
    {"metadata": {"name": "nothing"}, "spec": None, "status": "x"},
)


@pytest.mark.parametrize("bad", BAD_NODES, ids=lambda one: one["metadata"]["name"])
def test_a_node_that_is_wrong_takes_no_other_nodes_route(bad: dict[str, Any]) -> None:
    sources = Sources(nodes=(bad, GOOD))
    assert facts(sources, ClusterFacts(), "linkerd").pod_routes == (ROUTE,)
    assert parse_address("10.9.0.1") in own_networks(sources).nodes


def test_what_is_passed_over_is_named() -> None:
    found = {gap.name: gap.why for gap in gaps("nodes", Sources(nodes=(*BAD_NODES[:5], GOOD)))}
    assert found.keys() == {"no-address", "a-number", "with-a-zone", "no-network", "a-surrogate"}
    assert found["no-address"] == "status.addresses[0].address: 'not-an-address' is not an IP address"


def test_of_one_node_the_values_that_are_right_count() -> None:
    mixed = node("mixed", "10.42.3.0/24", "nonsense", "10.9.0.3")
    routes = facts(Sources(nodes=(mixed,)), ClusterFacts(), "linkerd").pod_routes
    assert routes == (PodRoute(parse_network("10.42.3.0/24"), parse_address("10.9.0.3")),)


def test_other_kinds_that_are_wrong() -> None:
    sources = Sources(
        service_cidrs=({"spec": {"cidrs": ["10.96.0.0/16", "10.96.0.0/99", None]}}, {"spec": 3}),
        dns=({"spec": {"clusterIPs": ["10.96.0.10", "None", 3, "x\ny"]}}, {}),
        config=({"data": {"values": "clusterDomain: 'a b\\nc'\nidentityTrustDomain: [1]"}},),
        roots=({"data": {"ca-bundle.crt": ["PEM"]}},),
    )
    found = facts(sources, ClusterFacts(), "linkerd")
    assert found.service_cidrs == (parse_network("10.96.0.0/16"),)
    assert [server.host for server in found.dns_addresses] == ["10.96.0.10"]
    assert found.cluster_domain == ClusterFacts().cluster_domain and found.trust_anchors_pem == ""
    for field in ("service_cidrs", "dns", "config", "roots"):
        assert gaps(field, sources), field


def collection() -> KubernetesStore:
    return KubernetesStore(Client(Access("http://127.0.0.1:9", None, lambda: "", "meshexp")))  # type: ignore[arg-type]


HOSTILE_OBJECTS: tuple[Any, ...] = (
    None, [], "x", {}, {"metadata": None}, {"metadata": []}, {"metadata": {"name": 3, "namespace": "a", "resourceVersion": "1"}},
    {"metadata": {"name": "a", "namespace": "b", "resourceVersion": "²"}},
    {"metadata": {"name": "a", "namespace": "b", "resourceVersion": "1"}, "spec": 7, "status": 7},
    {"metadata": {"name": "a", "namespace": "b", "resourceVersion": "1", "labels": [1]}, "spec": {"workloadIPs": [{"ip": "x"}]}},
)  # fmt: skip


@pytest.mark.parametrize("kind", ["workloads", "leases", "groups", "buoyant_groups"])
def test_each_object_is_read_by_itself_and_logged_once(kind: str) -> None:
    """Where it cannot be read. Some kinds take more than others."""

    async def main() -> None:
        made: KubernetesCollection[Any] = getattr(collection(), kind)
        with structlog.testing.capture_logs() as log:
            for _ in range(2):
                for one in HOSTILE_OBJECTS:
                    made._readable(one, dict(made._unreadable))
        names = [line["object"] for line in log]
        assert names and len(made.gaps()) >= 2 and {gap.name for gap in made.gaps()} >= {"?", "b/a"}
        assert len(names) < 2 * len(HOSTILE_OBJECTS)

    asyncio.run(main())


@pytest.mark.parametrize("text", ["²", "٣٣", "-1", "1" * 5000, "x", ""])
def test_annotations_that_anybody_may_write_are_no_numbers(text: str) -> None:
    async def body(w: Any) -> None:
        made = await w.join()
        key = "workload.meshexp.io/generation"
        found = await w.workload(made)
        changed = dataclasses.replace(found.metadata, annotations={**found.metadata.annotations, key: text})
        await w.workloads.replace(dataclasses.replace(found, metadata=changed))
        await settle()
        replica = lease_from_object(
            {"metadata": {"name": f"{REPLICA}two", "namespace": "meshexp"}, "spec": {"holderIdentity": "two"}}
        )
        said = dataclasses.replace(replica.metadata, annotations={"workload.meshexp.io/share": f"{text} {text} {text}"})
        await w.store.leases.create(dataclasses.replace(replica, metadata=said))
        await settle()
        await w.clock.advance(RENEW_SECONDS)
        assert w.replicas.others() == leases.Share()
        assert roll.machines([found], [], w.clock.wall())

    run(body)


def test_a_line_of_a_watch_has_a_bound_and_costs_no_more_in_small_pieces() -> None:
    lines = foreign.Lines(most=100)
    assert list(lines.feed(b'{"a": 1}\n{"b"')) == [b'{"a": 1}']
    assert list(lines.feed(b": 2}\n\n")) == [b'{"b": 2}', b""]
    with pytest.raises(ValueError, match="more than 100 bytes"):
        for _ in range(101):
            assert not list(lines.feed(b"x"))


@pytest.mark.parametrize("data", [b"[" * 100_000, b"NaN", b"\xff", b"{", b'{"a": -Infinity}'])
def test_json_that_is_none(data: bytes) -> None:
    with pytest.raises(ValueError, match=None):
        foreign.parse(data)


def test_text_can_be_written_again() -> None:
    found = foreign.parse(b'{"a\\udfff": ["\\ud800", "\\ud83d\\ude00"]}')
    assert found == {"a?": ["?", "\U0001f600"]}


class Removed(EmbeddedCollection[ExternalGroup]):
    """Its kind can be taken away, as with a CustomResourceDefinition."""

    error: Exception | None = None

    async def list(self) -> Listing[ExternalGroup]:
        if self.error is not None:
            raise self.error
        return await super().list()

    async def watch(self, resource_version: str) -> AsyncIterator[Change[ExternalGroup]]:
        async for change in super().watch(resource_version):
            if self.error is not None:
                raise self.error
            yield change


@pytest.mark.parametrize("error", [NotFoundError(""), RefusedCallError("forbidden")])
def test_a_kind_that_is_gone_takes_nothing_away_and_is_found_again(error: Exception) -> None:
    async def main() -> None:
        clock = StandingClock()
        groups = Removed(itertools.count(1), clock)
        await groups.create(group("face"))
        seen: list[Any] = []

        async def replace(listing: Listing[ExternalGroup]) -> None:
            seen.append({item.metadata.name for item in listing.items})

        async def apply(change: Change[ExternalGroup]) -> None:
            seen.append(change.type)

        task = asyncio.create_task(follow(groups, clock, replace, apply))
        await settle()
        groups.error = error
        await groups.create(group("smiley"))
        await clock.advance(30)
        assert seen == [{"face"}] and not task.done()
        groups.error = None
        await clock.advance(6)
        assert seen == [{"face"}, {"face", "smiley"}]
        task.cancel()

    asyncio.run(main())


class Slow(EmbeddedCollection[Lease]):
    """A store that takes the leader's write at once, and answers it late."""

    seconds = 0.0

    async def replace(self, item: Lease) -> Lease:
        stored = await super().replace(item)
        if self.seconds and item.metadata.name == "leader" and item.holder == "a":
            await self._clock.sleep(self.seconds)
        return stored


def test_the_lease_of_a_leader_counts_from_before_its_request() -> None:
    """The others count from when they see the renewal, which may be long before its answer: there are never two leaders."""

    async def main() -> None:
        site = Site()
        site.store.leases = slow = Slow(itertools.count(1), site.clock)
        for name in ("a", "b"):
            await site.start(name)
        assert site.leaders() == ["a"]
        slow.seconds = LEASE_SECONDS - 1
        for _ in range(8 * int(LEASE_SECONDS + RENEW_SECONDS)):
            await site.clock.advance(0.5)
            assert len(site.leaders()) <= 1
        for name in ("a", "b"):
            await site.kill(name)

    asyncio.run(main())


def test_a_write_that_is_refused_is_not_made_again_at_once() -> None:
    """The others go on meanwhile."""

    async def body(w: Any) -> None:
        first, second = await w.join("one"), await w.join("two", "192.0.2.2")
        tried: list[str] = []

        class Refusing(type(w.workloads)):  # type: ignore[misc]
            async def patch_status(self, item: Any) -> Any:
                tried.append(item.metadata.name)
                if item.metadata.name == first.name:
                    raise RefusedCallError("the API server answers 422: spec is invalid")
                return await super().patch_status(item)

        w.workloads.__class__ = Refusing
        with pytest.raises(RefusedCallError, match="422"):
            await w.say(first, 1)
        await w.clock.advance(20)
        assert tried.count(first.name) <= 4
        await w.say(second, 1)
        assert (await w.workload(second)).ready and not (await w.workload(first)).ready

    run(body)


def test_how_often_a_refused_write_is_made() -> None:
    refusals: Refusals[str] = Refusals()
    assert refusals.is_due("a", 0.0)
    refusals.refused("a", 0.0)
    assert not refusals.is_due("a", 4.0) and refusals.is_due("a", 5.0) and refusals.is_due("b", 0.0)
    refusals.refused("a", 5.0)
    assert not refusals.is_due("a", 14.0)
    refusals.taken("a")
    assert refusals.is_due("a", 14.0)
