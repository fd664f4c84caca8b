"""What identity asks of a Workload API, on our stand-in and, where its programs are on PATH, on SPIRE."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from harness.system.workload_api import Delivered, Failed, FailureKind, Frame, Svid, read_frames
from tests.waiting import wait
from tests.workload_api_support import OTHER_UID, REPOSITORY, SPIFFE_ID, UID, WorkloadApi, raw_call, spire_is_here, workload_api

pytestmark = pytest.mark.root
APIS = ["embedded", "spire"] if spire_is_here() else ["embedded"]
FETCH = "/SpiffeWorkloadAPI/FetchX509SVID"


@pytest.fixture(scope="module", params=APIS)
def api(request: pytest.FixtureRequest) -> Iterator[WorkloadApi]:
    with workload_api(request.param) as running:
        yield running


@contextlib.asynccontextmanager
async def child(socket: Path, uid: int = UID) -> AsyncIterator[AsyncIterator[Frame]]:
    """The frames of the identity child that runs as `uid`."""
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--no-new-privs"),
        *(sys.executable, "-m", "harness.system.workload_api_child", str(socket)),
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    try:
        yield read_frames(process.stdout)
    finally:
        process.terminate()
        assert await process.wait() == 0


async def until(frames: AsyncIterator[Frame], wanted: Callable[[Frame], bool], seconds: float = 30) -> list[Frame]:
    """The frames up to the first that is wanted."""
    seen = []
    async with asyncio.timeout(seconds):
        async for frame in frames:
            seen.append(frame)
            if wanted(frame):
                return seen
    raise AssertionError(f"the child ended after {seen}")


def delivered(frame: Frame) -> bool:
    return isinstance(frame, Delivered)


def failed(*kinds: FailureKind) -> Callable[[Frame], bool]:
    return lambda frame: isinstance(frame, Failed) and frame.kind in kinds


async def first_svid(api: WorkloadApi) -> Svid:
    async with child(api.socket) as frames:
        *_, last = await until(frames, delivered)
        assert isinstance(last, Delivered)
        (svid,) = last.svids
        return svid


def test_which_api_this_run_used(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        missing = "" if spire_is_here() else "; spire left out: spire-server and spire-agent are not on PATH"
        print(f"\nWorkload API contract runs on: {', '.join(APIS)}{missing}")


def test_the_selected_uid_gets_its_id_and_the_key_of_the_leaf(api: WorkloadApi) -> None:
    svid = asyncio.run(first_svid(api))
    leaf = x509.load_der_x509_certificate(svid.chain_der[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert str(svid.spiffe_id) == SPIFFE_ID
    assert [name.value for name in names] == [SPIFFE_ID]
    key = serialization.load_der_private_key(svid.key_der, password=None)
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert key.public_key().public_bytes(*form) == leaf.public_key().public_bytes(*form)


def test_the_chain_leads_to_the_bundle_which_is_the_anchor(api: WorkloadApi, tmp_path: Path) -> None:
    svid = asyncio.run(first_svid(api))
    leaf, *between = (x509.load_der_x509_certificate(data).public_bytes(serialization.Encoding.PEM) for data in svid.chain_der)
    (root,) = (x509.load_der_x509_certificate(data).public_bytes(serialization.Encoding.PEM) for data in svid.bundle_der)
    assert root.split() == api.anchor.read_bytes().split()
    for name, data in (("leaf", leaf), ("between", b"".join(between)), ("root", root)):
        (tmp_path / name).write_bytes(data)
    for purpose in ("sslserver", "sslclient"):
        verify = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-no-CApath", "-CAfile", "root"]
        done = subprocess.run([*verify, "-untrusted", "between", "leaf"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_another_uid_is_denied(api: WorkloadApi) -> None:
    async def scenario() -> None:
        async with child(api.socket, OTHER_UID) as frames:
            first, second = [await asyncio.wait_for(anext(frames), 60) for _ in range(2)]
        assert isinstance(first, Failed)
        assert first.kind is FailureKind.DENIED
        assert "no identity issued" in first.message
        assert second == first

    asyncio.run(scenario())


def test_a_request_without_the_security_header_is_invalid(api: WorkloadApi) -> None:
    (answer,) = raw_until_status(api.socket, FETCH, {})
    assert answer["grpc-status"] == "3"


def test_an_unknown_method_is_unimplemented(api: WorkloadApi) -> None:
    (answer,) = raw_until_status(
        api.socket, "/spiffe.workloadapi.SpiffeWorkloadAPI/FetchX509SVID", {"workload.spiffe.io": "true"}
    )
    assert answer["grpc-status"] == "12"


def raw_until_status(socket: Path, method: str, metadata: dict[str, str]) -> list[dict[str, str]]:
    for item in raw_call(socket, method, metadata):
        if isinstance(item, dict):
            return [item]
    return []


def test_a_rotation_pushes_a_new_svid_on_the_same_stream(api: WorkloadApi) -> None:
    async def scenario() -> None:
        async with child(api.socket) as frames:
            await until(frames, delivered)
            first, second = [await asyncio.wait_for(anext(frames), 60) for _ in range(2)]
        assert isinstance(first, Delivered) and isinstance(second, Delivered), "the stream broke"
        assert first.svids[0].key_der != second.svids[0].key_der
        assert first.svids[0].expires_at < second.svids[0].expires_at

    asyncio.run(scenario())


def test_the_child_outlives_a_restart_of_the_api(api: WorkloadApi) -> None:
    async def scenario() -> None:
        async with child(api.socket) as frames:
            await until(frames, delivered)
            await asyncio.to_thread(api.stop)
            await until(frames, failed(FailureKind.TEMPORARY, FailureKind.SOCKET_MISSING))
            await until(frames, failed(FailureKind.SOCKET_MISSING))
            await asyncio.to_thread(api.start)
            await until(frames, delivered)

    asyncio.run(scenario())


def test_the_child_waits_for_a_socket_that_is_not_there_yet(api: WorkloadApi) -> None:
    async def scenario() -> None:
        await asyncio.to_thread(api.stop)
        async with child(api.socket) as frames:
            first = await asyncio.wait_for(anext(frames), 60)
            assert failed(FailureKind.SOCKET_MISSING)(first), first
            await asyncio.to_thread(api.start)
            await until(frames, delivered)

    asyncio.run(scenario())


@pytest.mark.skipif(shutil.which("linkerd2-proxy") is None, reason="no linkerd2-proxy on PATH: no registry carries it")
def test_linkerd2_proxy_takes_its_certificate_from_it(api: WorkloadApi) -> None:
    """Its /ready is no proof (it turns 200 when the socket was missing at its start), so the metric is asked."""
    asyncio.run(first_svid(api))  # SPIRE needs a moment before it has one
    namespace = f"mxd-proxy-{os.getpid()}"
    inside = ("ip", "netns", "exec", namespace)
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        drop = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--no-new-privs")
        with subprocess.Popen([*inside, *drop, "linkerd2-proxy"], env=proxy_environment(api), stdout=subprocess.DEVNULL) as proxy:
            try:
                wait(lambda: refreshes(inside) >= 2)  # the second one is a rotation
            finally:
                proxy.kill()
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)


def proxy_environment(api: WorkloadApi) -> dict[str, str]:
    prefix = "LINKERD2_PROXY_"
    return {
        "PATH": os.environ["PATH"],
        f"{prefix}IDENTITY_SERVER_ID": SPIFFE_ID,
        f"{prefix}IDENTITY_SERVER_NAME": "face.cluster.local",
        f"{prefix}IDENTITY_TRUST_ANCHORS": api.anchor.read_text(),
        f"{prefix}IDENTITY_SPIRE_WORKLOAD_API_ADDRESS": f"unix:{api.socket}",
        f"{prefix}POLICY_WORKLOAD": '{"ns":"mixed-env","external_workload":"face"}',
        f"{prefix}POLICY_SVC_ADDR": "127.0.0.1:8090",
        f"{prefix}DESTINATION_SVC_ADDR": "127.0.0.1:8086",
    }


def refreshes(inside: tuple[str, ...]) -> int:
    """How many certificates the proxy has taken; 0 while it does not answer."""
    read = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:4191/metrics', timeout=2).read().decode())"
    text = subprocess.run([*inside, sys.executable, "-c", read], capture_output=True, text=True).stdout
    lines = [line for line in text.splitlines() if line.startswith("control_identity_cert_refreshes_total")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if 'result="error"' not in line)
