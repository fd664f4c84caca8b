"""What every store must do, on each of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from controller.embedded_store import HISTORY, EmbeddedStore
from controller.kubernetes.store import KubernetesStore
from controller.model import Event, ExternalWorkload, Key, Lease, Metadata, Status
from controller.store import Change, ChangeType, ConflictError, GoneError, NotFoundError, Store
from harness.clock import SystemClock
from tests import kubernetes_support
from tests.controller_support import group, ready, workload

Factory = Callable[[], AbstractAsyncContextManager[Store]]


@contextlib.asynccontextmanager
async def embedded() -> AsyncIterator[Store]:
    yield EmbeddedStore(SystemClock())


@contextlib.asynccontextmanager
async def kubernetes() -> AsyncIterator[Store]:
    """A real API server, emptied before."""
    async with kubernetes_support.cluster().client() as client:
        store = KubernetesStore(client)
        for collection in (store.groups, store.buoyant_groups, store.workloads, store.leases):
            for item in (await collection.list()).items:
                await collection.delete(item.metadata.key)
        yield store


FACTORIES: dict[str, Factory] = {"embedded": embedded, "kubernetes": kubernetes}


@pytest.fixture(params=FACTORIES)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Store], Awaitable[None]]], None]:
    def runner(body: Callable[[Store], Awaitable[None]]) -> None:
        async def main() -> None:
            async with FACTORIES[request.param]() as store, asyncio.timeout(60):
                await body(store)

        asyncio.run(main())

    return runner


Run = Callable[[Callable[[Store], Awaitable[None]]], None]


async def take(changes: AsyncIterator[Change[ExternalWorkload]], count: int) -> list[Change[ExternalWorkload]]:
    return [await anext(changes) for _ in range(count)]


def test_created_object_is_as_given_but_for_the_status(run: Run) -> None:
    async def body(store: Store) -> None:
        made = await store.workloads.create(ready(workload()))
        assert made.metadata.uid and int(made.metadata.resource_version) > 0
        assert made.metadata.generation == 1 and made.metadata.creation_timestamp.endswith("Z")
        assert (made.metadata.labels, made.metadata.annotations) == ({"service": "face"}, {"a": "b"})
        assert made.metadata.owner_references == workload().metadata.owner_references
        assert made.spec == workload().spec
        assert made.status == Status() and not made.ready
        assert await store.workloads.get(Key("faces", "face-abc")) == made
        assert (await store.workloads.list()).items == (made,)

    run(body)


def test_a_key_is_taken_once(run: Run) -> None:
    async def body(store: Store) -> None:
        await store.workloads.create(workload())
        with pytest.raises(ConflictError):
            await store.workloads.create(workload())

    run(body)


def test_what_is_not_there_is_not_found(run: Run) -> None:
    async def body(store: Store) -> None:
        key = Key("faces", "nobody")
        with pytest.raises(NotFoundError):
            await store.workloads.get(key)
        with pytest.raises(NotFoundError):
            await store.workloads.delete(key)
        with pytest.raises(NotFoundError):
            await store.workloads.patch_status(ready(workload("nobody")))
        made = await store.workloads.create(workload())
        await store.workloads.delete(made.metadata.key)
        with pytest.raises(NotFoundError):
            await store.workloads.replace(made)

    run(body)


def test_status_is_written_apart_and_kept_by_a_replace(run: Run) -> None:
    async def body(store: Store) -> None:
        made = await store.workloads.create(workload())
        shown = await store.workloads.patch_status(ready(made))
        assert shown.ready and shown.metadata.generation == 1
        assert int(shown.metadata.resource_version) > int(made.metadata.resource_version)
        relabelled = dataclasses.replace(
            shown, metadata=dataclasses.replace(shown.metadata, labels={"service": "x"}), status=Status()
        )
        after = await store.workloads.replace(relabelled)
        assert after.ready and after.metadata.labels == {"service": "x"} and after.metadata.generation == 1

    run(body)


def test_a_status_does_not_need_the_latest_version_but_the_same_object(run: Run) -> None:
    async def body(store: Store) -> None:
        first = await store.workloads.create(workload())
        await store.workloads.patch_status(ready(first))
        assert not (await store.workloads.patch_status(ready(first, "False"))).ready
        await store.workloads.delete(first.metadata.key)
        await store.workloads.create(workload())
        with pytest.raises(ConflictError):
            await store.workloads.patch_status(ready(first))

    run(body)


def test_replace_of_a_stale_version_is_a_conflict(run: Run) -> None:
    async def body(store: Store) -> None:
        made = await store.workloads.create(workload())
        newer = await store.workloads.replace(dataclasses.replace(made, spec=workload(ip="192.0.2.9").spec))
        assert newer.metadata.generation == 2 and newer.metadata.uid == made.metadata.uid
        with pytest.raises(ConflictError):
            await store.workloads.replace(dataclasses.replace(made, spec=workload(ip="192.0.2.8").spec))

    run(body)


def test_a_write_that_changes_nothing_is_no_change(run: Run) -> None:
    async def body(store: Store) -> None:
        made = await store.workloads.patch_status(ready(await store.workloads.create(workload())))
        assert await store.workloads.replace(made) == made
        assert await store.workloads.patch_status(made) == made

    run(body)


def test_delete_of_another_uid_is_a_conflict(run: Run) -> None:
    async def body(store: Store) -> None:
        made = await store.workloads.create(workload())
        with pytest.raises(ConflictError):
            await store.workloads.delete(made.metadata.key, "0b7d4c0e-1111-4000-8000-000000000000")
        await store.workloads.delete(made.metadata.key, made.metadata.uid)

    run(body)


def test_watch_shows_every_change_after_its_version_in_order(run: Run) -> None:
    async def body(store: Store) -> None:
        made = await store.workloads.create(workload())
        version = (await store.workloads.list()).resource_version
        changes = store.workloads.watch(version)
        shown = await store.workloads.patch_status(ready(made))
        other = await store.workloads.create(workload("face-def", "192.0.2.2"))
        await store.workloads.delete(made.metadata.key)
        seen = await take(changes, 3)
        assert [(c.type, c.item.metadata.name) for c in seen] == [
            (ChangeType.MODIFIED, "face-abc"),
            (ChangeType.ADDED, "face-def"),
            (ChangeType.DELETED, "face-abc"),
        ]
        assert seen[0].item == shown and seen[1].item == other
        versions = [int(change.item.metadata.resource_version) for change in seen]
        assert versions == sorted(versions) and versions[2] > int(other.metadata.resource_version)

    run(body)


def test_watch_resumes_where_another_ended(run: Run) -> None:
    async def body(store: Store) -> None:
        version = (await store.workloads.list()).resource_version
        made = await store.workloads.create(workload())
        (first,) = await take(store.workloads.watch(version), 1)
        shown = await store.workloads.patch_status(ready(made))
        (second,) = await take(store.workloads.watch(first.item.metadata.resource_version), 1)
        assert second.item == shown

    run(body)


def test_watch_waits_for_what_is_yet_to_happen(run: Run) -> None:
    async def body(store: Store) -> None:
        version = (await store.workloads.list()).resource_version
        waiting = asyncio.create_task(take(store.workloads.watch(version), 1))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        made = await store.workloads.create(workload())
        assert (await waiting)[0] == Change(ChangeType.ADDED, made)

    run(body)


def test_two_watches_both_see_all(run: Run) -> None:
    async def body(store: Store) -> None:
        version = (await store.workloads.list()).resource_version
        tasks = [asyncio.create_task(take(store.workloads.watch(version), 3)) for _ in range(2)]
        for number in range(3):
            await store.workloads.create(workload(f"face-{number}", f"192.0.2.{number + 1}"))
            await asyncio.sleep(0)
        first, second = await asyncio.gather(*tasks)
        assert first == second and len(first) == 3

    run(body)


def test_kinds_do_not_mix(run: Run) -> None:
    async def body(store: Store) -> None:
        theirs = await store.buoyant_groups.create(group())
        ours = await store.groups.create(group(api="workload.meshexp.io/v1alpha1"))
        assert (await store.buoyant_groups.list()).items == (theirs,)
        assert (await store.groups.list()).items == (ours,)
        assert (await store.workloads.list()).items == ()
        assert theirs.spec == group().spec

    run(body)


def test_leases_are_renewed_and_taken_over(run: Run) -> None:
    async def body(store: Store) -> None:
        lease = Lease(Metadata("replica-a", "meshexp"), "replica-a", 1_800_000_000.5, 15.0)
        made = await store.leases.create(lease)
        assert (made.holder, made.renewed, made.duration_seconds) == ("replica-a", 1_800_000_000.5, 15.0)
        taken = await store.leases.replace(dataclasses.replace(made, holder="replica-b", renewed=1_800_000_020.0, transitions=1))
        assert (taken.holder, taken.transitions) == ("replica-b", 1)
        with pytest.raises(ConflictError):
            await store.leases.replace(dataclasses.replace(made, holder="replica-c"))

    run(body)


def test_events_are_taken(run: Run) -> None:
    async def body(store: Store) -> None:
        await store.record(Event(Key("faces", "face"), "Joined", "face-abc joined"))

    run(body)


def test_embedded_watch_of_a_forgotten_version_is_gone() -> None:
    async def body() -> None:
        store = EmbeddedStore(SystemClock())
        item = await store.workloads.create(workload())
        for number in range(HISTORY + 1):
            item = await store.workloads.replace(
                dataclasses.replace(item, metadata=dataclasses.replace(item.metadata, labels={"n": str(number)}))
            )
        with pytest.raises(GoneError):
            await take(store.workloads.watch("0"), 1)

    asyncio.run(body())
