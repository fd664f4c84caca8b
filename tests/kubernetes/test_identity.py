"""The controller's certificate from Linkerd's real identity controller, behind TLS as its own proxy puts it."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import pytest

from controller.linkerd_identity import Certificate, Certifier, Identity
from controller.tls import server_context
from harness.clock import SystemClock
from harness.errors import TemporaryError
from harness.values import HostPort
from tests.controller_support import Authority
from tests.kubernetes_support import Cluster, cluster, end, spawn
from tests.ports import free_port

SUFFIX = "serviceaccount.identity.linkerd.cluster.local"
NAME, SERVICE = f"meshexp-controller.meshexp.{SUFFIX}", f"linkerd-identity.linkerd.{SUFFIX}"
AUDIENCE = "identity.l5d.io"
pytestmark = pytest.mark.skipif(shutil.which("linkerd-controller") is None, reason="linkerd-controller is not on PATH")
# It has fixed paths: a mount namespace gives it its own.
SCRIPT = """mount -t tmpfs tmpfs /mnt && mount --bind /mnt /var/run && mkdir -p {run} &&
cp -r {folder}/issuer {folder}/trust-roots {run}/ &&
exec linkerd-controller identity -kubeconfig={kubeconfig} -addr=127.0.0.1:{port} -admin-addr=127.0.0.1:{admin} -log-level=info \
-controller-namespace=linkerd -identity-trust-domain=cluster.local -identity-issuance-lifetime={lifetime} \
-identity-clock-skew-allowance=1s -identity-scheme=linkerd.io/tls"""


@contextlib.contextmanager
def identity_controller(made: Cluster, folder: pathlib.Path, lifetime: str = "24h") -> Iterator[tuple[Authority, int]]:
    """The authority of the mesh and the port of the gRPC service."""
    authority = Authority(folder, "mesh")
    issuer = authority.issue("identity.linkerd.cluster.local", ca=True, dns=("identity.linkerd.cluster.local",), ends=86400)
    for name in ("issuer", "trust-roots"):
        (folder / name).mkdir()
    shutil.copy(issuer[0], folder / "issuer" / "crt.pem")
    shutil.copy(issuer[1], folder / "issuer" / "key.pem")
    shutil.copy(authority.anchors, folder / "trust-roots" / "ca-bundle.crt")
    port, admin = free_port(), free_port()
    script = SCRIPT.format(
        run="/var/run/linkerd/identity", folder=folder, kubeconfig=made.kubeconfig(), port=port, admin=admin, lifetime=lifetime
    )
    process = spawn(folder, "identity", "unshare", "--mount", "--propagation=private", "bash", "-c", script)
    try:
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=1).close()
                break
            if process.poll() is not None:
                break
            time.sleep(0.1)
        else:
            raise AssertionError((folder / "identity.log").read_text()[-2000:])
        assert process.poll() is None, (folder / "identity.log").read_text()[-2000:]
        yield authority, port
    finally:
        end(process)


@contextlib.asynccontextmanager
async def proxied(authority: Authority, port: int, name: str = SERVICE) -> AsyncIterator[HostPort]:
    """TLS in front of the service, under the service's own identity."""
    certificate = authority.issue(f"proxy-{name[:20]}", dns=(name,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    try:
        yield HostPort("127.0.0.1", int(server.sockets[0].getsockname()[1]))
    finally:
        server.close()


def certifier(authority: Authority, token: pathlib.Path, address: HostPort, name: str = NAME) -> Certifier:
    anchors = pathlib.Path(authority.anchors).read_text()
    return Certifier(Identity(name, str(token), address, SERVICE), lambda: anchors, SystemClock())


def run(
    folder: pathlib.Path, body: Callable[[Authority, int, pathlib.Path], Coroutine[None, None, None]], lifetime: str = "24h"
) -> None:
    made = cluster()
    token = folder / "token"
    token.write_text(made.token("meshexp-controller", audience=AUDIENCE) + "\n")
    with identity_controller(made, folder, lifetime) as (authority, port):
        asyncio.run(body(authority, port, token))


def test_a_certificate_that_the_harness_would_trust(tmp_path: pathlib.Path) -> None:
    async def body(authority: Authority, port: int, token: pathlib.Path) -> None:
        async with proxied(authority, port) as address:
            made = await certifier(authority, token, address).certify()
        left = made.expires - SystemClock().wall()
        assert 86000 < left < 86500
        await handshake(authority, made)

    run(tmp_path, body)


async def handshake(authority: Authority, made: Certificate) -> None:
    """As the harness connects: by name, against the anchors."""
    server_side = server_context(made.chain, made.key, pathlib.Path(authority.anchors).read_text())
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=server_side)
    client = authority.client(authority.issue("vm", "spiffe://root.linkerd.cluster.local/face"))
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client, server_hostname=NAME)
    writer.transport.abort()
    server.close()


def test_what_is_refused(tmp_path: pathlib.Path) -> None:
    async def body(authority: Authority, port: int, token: pathlib.Path) -> None:
        async with proxied(authority, port) as address, proxied(authority, port, "impostor.example") as impostor:
            other = certifier(authority, token, address, f"somebody.else.{SUFFIX}")
            with pytest.raises(TemporaryError, match="identity service refuses"):
                await other.certify()
            with pytest.raises(TemporaryError, match=r"impostor|[Hh]ostname mismatch|CERTIFICATE_VERIFY"):
                await certifier(authority, token, impostor).certify()
            (token.parent / "wrong").write_text(token.read_text()[:-9])
            with pytest.raises(TemporaryError, match="identity service refuses"):
                await certifier(authority, token.parent / "wrong", address).certify()
            with pytest.raises(TemporaryError, match="cannot ask"):
                await certifier(authority, token.parent / "none", address).certify()
        with pytest.raises(TemporaryError, match=r"127\.0\.0\.1"):
            await certifier(authority, token, address).certify()

    run(tmp_path, body)


def test_it_is_renewed_before_it_ends(tmp_path: pathlib.Path) -> None:
    async def body(authority: Authority, port: int, token: pathlib.Path) -> None:
        async with proxied(authority, port) as address:
            ours = certifier(authority, token, address)
            first = await ours.first()
            renewed: asyncio.Queue[Certificate] = asyncio.Queue()
            task = asyncio.create_task(ours.keep(first, renewed.put_nowait))
            second = await asyncio.wait_for(renewed.get(), 60)
            assert second.chain != first.chain and first.expires > SystemClock().wall() and second.expires > first.expires
            await handshake(authority, second)
            task.cancel()

    run(tmp_path, body, "12s")
