"""What of the API server the store's contract does not show: who we are, limits, lost and forgotten watches."""

from __future__ import annotations

import asyncio
import base64
import json
import pathlib
import ssl
import sys
import time
from typing import Any

import pytest
import yaml

from controller.kubernetes import access
from controller.kubernetes.client import Client
from controller.kubernetes.store import KubernetesStore
from controller.model import Event, Key, Metadata
from controller.store import ChangeType, GoneError
from harness.errors import ConfigError, TemporaryError
from tests import kubernetes_support
from tests.controller_support import group, workload
from tests.kubernetes_support import NAMESPACE, cluster


async def whoami(found: access.Access) -> str:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    async with Client(found) as client:
        answer = await client.send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
        return str(answer["status"]["userInfo"]["username"])


def test_in_a_pod_the_service_account_is_used_and_a_renewed_token_is_read(tmp_path: pathlib.Path) -> None:
    made = cluster()
    (tmp_path / "ca.crt").write_text(pathlib.Path(made.authority.anchors).read_text())
    (tmp_path / "namespace").write_text("meshexp")
    (tmp_path / "token").write_text(made.token("default"))
    host, port = made.url.removeprefix("https://").split(":")
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    found = access.from_service_account(environment, tmp_path)
    assert asyncio.run(whoami(found)) == "system:serviceaccount:meshexp:default" and found.namespace == "meshexp"


def test_every_kind_of_kubeconfig(tmp_path: pathlib.Path) -> None:
    made, token = cluster(), cluster().token("default")
    (tmp_path / "token").write_text(token)
    (tmp_path / "plugin.py").write_text(f"print({json.dumps(json.dumps({'status': {'token': token}}))})")
    certificate = made.folder / "ca-admin.pem", made.folder / "ca-admin.key.pem"
    embedded = [base64.b64encode(path.read_bytes()).decode() for path in certificate]
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": [str(tmp_path / "plugin.py")]}
    account = "system:serviceaccount:meshexp:default"
    users: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, "admin"),
        ({"client-certificate-data": embedded[0], "client-key-data": embedded[1]}, "admin"),
        ({"token": token}, account),
        ({"tokenFile": str(tmp_path / "token")}, account),
        ({"exec": plugin}, account),
    )
    for number, (credentials, user) in enumerate(users):
        path = made.kubeconfig(f"user-{number}" if credentials else "admin", **credentials)
        assert asyncio.run(whoami(access.from_kubeconfig(path))) == user, credentials


@pytest.mark.parametrize("change", ["current-context: other", "clusters: []", "users: 3", "clusters: [{name: c, cluster: {}}]"])
def test_an_unusable_kubeconfig_is_a_configuration_error(tmp_path: pathlib.Path, change: str) -> None:
    data = yaml.safe_load(pathlib.Path(cluster().kubeconfig()).read_text()) | yaml.safe_load(change)
    (tmp_path / "config").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError):
        access.from_kubeconfig(str(tmp_path / "config"))


def test_a_server_that_is_not_ours_is_not_spoken_to(tmp_path: pathlib.Path) -> None:
    found = access.from_kubeconfig(cluster().kubeconfig())
    stranger = access.Access(found.server, ssl.create_default_context(), found.token, found.namespace)
    with pytest.raises(TemporaryError, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
        asyncio.run(whoami(stranger))


def test_a_watch_from_a_forgotten_version_is_gone() -> None:
    async def main() -> None:
        async with cluster().client() as client:
            store = KubernetesStore(client)
            await store.workloads.list()
            said = TemporaryError("")
            async with asyncio.timeout(60):
                while not isinstance(said, GoneError):
                    try:
                        await anext(store.workloads.watch("1"))
                    except TemporaryError as error:  # at first maybe that its cache of this kind is not there yet
                        said = error

    asyncio.run(main())


def test_a_long_list_comes_in_pages_and_unreadable_objects_are_passed_over(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        from controller.kubernetes import collection as module

        async with cluster().client() as client:
            store = KubernetesStore(client)
            for item in (await store.workloads.list()).items:
                await store.workloads.delete(item.metadata.key)
            broken = workload("broken").to_object() | {"spec": {"meshTLS": {"identity": "x", "serverName": "y"}}}
            broken["metadata"] = {"name": "broken", "namespace": "faces"}
            await client.send("POST", "/apis/workload.linkerd.io/v1beta1/namespaces/faces/externalworkloads", broken)
            for number in range(7):
                await store.workloads.create(workload(f"face-{number}"))
            before, module.PAGE = module.PAGE, 3
            try:
                listing = await store.workloads.list()
            finally:
                module.PAGE = before
            assert [item.metadata.name for item in listing.items] == [f"face-{number}" for number in range(7)]
            await store.workloads.delete(Key("faces", "broken"))

    asyncio.run(main())


def test_writes_are_paced_and_reads_are_not() -> None:
    async def main() -> None:
        async with cluster().client(writes_per_second=0.1) as client, asyncio.timeout(60):
            await asyncio.gather(*(KubernetesStore(client).workloads.list() for _ in range(50)))
        async with cluster().client(writes_per_second=20.0) as client:
            began = time.monotonic()
            review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
            path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
            await asyncio.gather(*(client.send("POST", path, review) for _ in range(60)))
            assert time.monotonic() - began >= 2  # 20 at once, 40 at 20 a second

    asyncio.run(main())


def test_what_others_add_to_our_objects_stays() -> None:
    async def main() -> None:
        async with cluster().client() as client:
            store = KubernetesStore(client)
            made = await store.workloads.create(workload("shared"))
            cluster().kubectl("-n", "faces", "label", "externalworkload", "shared", "theirs=kept")
            current = await store.workloads.get(made.metadata.key)
            ours = Metadata(
                "shared", "faces", labels={"service": "new"}, uid=made.metadata.uid,
                resource_version=current.metadata.resource_version,
            )  # fmt: skip
            after = await store.workloads.replace(type(made)(ours, made.spec))
            assert after.metadata.labels == {"service": "new", "theirs": "kept"}
            assert after.metadata.annotations == {} and after.metadata.owner_references == ()
            await store.workloads.delete(made.metadata.key)

    asyncio.run(main())


def test_a_watch_outlives_its_single_requests() -> None:
    async def main() -> None:
        from controller.kubernetes import client as module

        async with cluster().client() as client:
            store = KubernetesStore(client)
            before, module.WATCH_SECONDS = module.WATCH_SECONDS, 1
            try:
                changes = store.workloads.watch((await store.workloads.list()).resource_version)
                waiting = asyncio.ensure_future(anext(changes))
                await asyncio.sleep(2.5)
                made = await store.workloads.create(workload("late"))
                change = await asyncio.wait_for(waiting, 5)
                assert (change.type, change.item) == (ChangeType.ADDED, made)
            finally:
                module.WATCH_SECONDS = before
            await store.workloads.delete(made.metadata.key)

    asyncio.run(main())


def test_events_are_seen_by_kubectl_and_do_not_flood() -> None:
    made = cluster()

    async def main() -> None:
        async with made.client() as client:
            store = KubernetesStore(client)
            for item in (await store.groups.list()).items:
                await store.groups.delete(item.metadata.key)
            face = await store.groups.create(group(api="workload.meshexp.io/v1alpha1"))
            about = {"api": face.api_version, "uid": face.metadata.uid}
            await asyncio.gather(
                *(store.record(Event(face.key, "Joined", f"{n} joined", warning=n == 0, **about)) for n in range(200))
            )
            await store.flush()

    asyncio.run(main())
    text = made.kubectl("-n", "faces", "describe", "externalgroup.workload.meshexp.io", "face")
    assert "Joined" in text and "meshexp-controller" in text and "Warning" in text
    events = json.loads(made.kubectl("-n", "faces", "get", "events", "-o", "json"))["items"]
    assert 100 <= sum(event["reason"] == "Joined" for event in events) <= 110


def test_a_missing_permission_says_so() -> None:
    made = cluster()
    path = made.kubeconfig("nobody", token=made.token("default"))

    async def main() -> None:
        async with Client(access.from_kubeconfig(path)) as client:
            with pytest.raises(TemporaryError, match=r"403.*externalworkloads") as caught:
                await KubernetesStore(client).workloads.list()
            assert "role" in caught.value.hint

    asyncio.run(main())


def test_the_namespace_of_leases_is_the_controllers() -> None:
    assert kubernetes_support.NAMESPACE == NAMESPACE == cluster().client().access.namespace
