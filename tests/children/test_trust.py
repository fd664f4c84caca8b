"""Certificates that one side of a connection refuses, each for another reason: the reason chooses the problem, and its hint.

The certificates are shifted in time, never the clock: to a handshake, that is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controller import reach, tls
from harness import trust
from harness.errors import HarnessError, UnavailableError
from harness.messages import RegistrationRequest
from harness.reconcilers import registration_condition
from harness.reconcilers.lease import Silence
from harness.reconcilers.registration_actions import Access, Observed
from harness.specs import Target
from harness.status import Condition
from harness.system.control_plane import ControlPlane, RefusedError, UntrustedError
from harness.system.tls_look import Seen, look
from harness.system.workload_api import Svid
from harness.values import HostPort
from tests import builders
from tests.children.controller_site import FACE, REQUEST, Run, Site, run_fixture  # noqa: F401 — the fixture
from tests.controller_support import Authority
from tests.mesh import ENVIRONMENT

TIMES = {"of the past": (-7200.0, -3600.0), "of the future": (3600.0, 7200.0)}
"""Begin and end of a certificate, in seconds from now."""
THEIRS: dict[str, tuple[str, str, str]] = {
    "of the future": ("clock-skew", "is not valid yet by this machine's clock", "timedatectl"),
    "of the past": ("certificate-expired", "has expired by this machine's clock", "timedatectl"),
    "of another name": (
        "controller-misnamed",
        "what answers is not controller: Hostname mismatch",
        "controller.identity must be",
    ),
    "of another root": ("controller-untrusted", "what answers is not controller: ", "kubectl meshexp invite"),
}
"""The controller's certificate: the problem, and what its message and its hint have."""
OURS = {
    "of the future": ("the client certificate is not valid yet by the controller's clock", "this machine's clock is ahead"),
    "of the past": ("the client certificate has expired by the controller's clock", "this machine's clock is behind"),
}


def issued(authority: Authority, kind: str, *uris: str, dns: tuple[str, ...] = ()) -> tuple[str, str]:
    """Its files."""
    signer = Authority(authority.folder, "another") if kind == "of another root" else authority
    begins, ends = TIMES.get(kind, (-60.0, 3600.0))
    names = ("other",) if kind == "of another name" else dns
    return signer.issue(kind.replace(" ", "-"), *uris, dns=names, begins=begins, ends=ends)


def svid(files: tuple[str, str]) -> Svid:
    certificate = x509.load_pem_x509_certificate(Path(files[0]).read_bytes())
    key = serialization.load_pem_private_key(Path(files[1]).read_bytes(), None)
    form = (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return builders.svid(chain_der=(certificate.public_bytes(serialization.Encoding.DER),), key_der=key.private_bytes(*form))


def target(authority: Authority, address: HostPort) -> Target:
    return Target(address, "controller", Path(authority.anchors).read_text())


async def refusal(at: Target, mine: Svid) -> HarnessError:
    control = ControlPlane()
    request = RegistrationRequest("face", "faces", "instance", "face-1", builders.machine().addresses)
    with pytest.raises((UntrustedError, RefusedError)) as caught:
        await control.register(at, mine, request)
    await control.close()
    return caught.value


def told(error: HarnessError, at: Target, mine: Svid) -> Condition:
    """By a member whose lease has ended meanwhile: it names the cause, not the silence."""
    seen = Observed(access=Access(at, mine), error=error)
    member = replace(seen, registration=builders.registration(), silence=Silence(60.0, 30.0))
    newcomer, old = registration_condition.of(None, seen), registration_condition.of(None, member)
    assert newcomer.problem == old.problem
    return newcomer


@contextlib.asynccontextmanager
async def answering(files: tuple[str, str]) -> AsyncIterator[asyncio.Server]:
    """A TLS server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context) as server:
        yield server


def served(tmp_path: Path, kind: str, body: Callable[[Authority, HostPort], Awaitable[None]]) -> None:
    async def main() -> None:
        authority = Authority(tmp_path)
        async with answering(issued(authority, kind, dns=("controller",))) as server:
            await body(authority, HostPort(*server.sockets[0].getsockname()))

    asyncio.run(main())


@pytest.mark.parametrize("kind", THEIRS)
def test_the_controllers_certificate_is_refused(tmp_path: Path, kind: str) -> None:
    code, message, hint = THEIRS[kind]

    async def body(authority: Authority, address: HostPort) -> None:
        at, mine = target(authority, address), svid(authority.issue("face", FACE))
        condition = told(await refusal(at, mine), at, mine)
        assert condition.problem is not None and condition.problem.code == code
        assert message in condition.message and hint in condition.hint({})
        seen: Seen = await look(address, "controller", at.anchors_pem, 5.0)
        assert message in seen.untrusted and not seen.good and seen.why is not None

    served(tmp_path, kind, body)


@pytest.mark.parametrize("kind", THEIRS)
def test_the_controllers_own_test_of_itself_says_why(tmp_path: Path, kind: str) -> None:
    _, message, _ = THEIRS[kind]

    async def body(authority: Authority, address: HostPort) -> None:
        with pytest.raises(UnavailableError) as caught:
            await reach._reach(address, "controller", tls.client_context(Path(authority.anchors).read_text()), 0.0, "look there")
        assert message in caught.value.message
        assert ("timedatectl" in caught.value.hint) is (kind in ("of the past", "of the future"))

    served(tmp_path, kind, body)


@pytest.mark.parametrize("kind", OURS)
def test_the_controller_refuses_this_machines_certificate(run: Run, kind: str) -> None:
    message, hint = OURS[kind]

    async def body(s: Site) -> None:
        at, mine = target(s.authority, s.controller.address), svid(issued(s.authority, kind, FACE))
        condition = told(await refusal(at, mine), at, mine)
        assert condition.problem is not None and condition.problem.code == "identity-refused"
        assert message in condition.message and hint in condition.hint({}) and "timedatectl" in condition.hint({})
        seen = await look(s.controller.address, "controller", at.anchors_pem, 5.0, mine)
        assert seen.unwelcome == message and seen.skew == 0.0 and not seen.untrusted
        welcome = await look(s.controller.address, "controller", at.anchors_pem, 5.0, svid(s.certificate))
        assert welcome.unwelcome == "" and welcome.skew == 0.0

    run(body)


def test_what_ends_above_the_leaf_ends_the_leaf(run: Run) -> None:
    """TLS leaves the times to the calls, of the whole chain."""

    async def body(s: Site) -> None:
        for kind, (begins, ends) in TIMES.items():
            above, key = map(Path, s.authority.issue(kind, ca=True, begins=begins, ends=ends))
            below = Authority(s.authority.folder, kind)
            (below.folder / f"{kind}.key.pem").write_bytes(key.read_bytes())
            leaf, own = below.issue("face", FACE)
            Path(leaf).write_text(Path(leaf).read_text() + above.read_text())
            answer = await s.call("POST", "/v1/workloads", REQUEST, context=s.authority.client((leaf, own)))
            assert answer.code == "unauthenticated" and OURS[kind][0] in answer.body["message"]
        assert (await s.controller.store.workloads.list()).items == ()

    run(body)


def test_tls_says_that_it_does_not_know_our_root(tmp_path: Path) -> None:
    """A server that sends an alert, as those on OpenSSL do. With TLS 1.3 it comes after the handshake, in place of the answer."""
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.anchors)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*authority.issue("server", dns=("controller",)))

    def refuse(listener: socket.socket) -> None:
        for _ in range(2):
            made, _ = listener.accept()
            with made:
                with contextlib.suppress(ssl.SSLError):
                    context.wrap_socket(made.dup(), server_side=True, do_handshake_on_connect=True)
                # A socket that closes before it has read all sends a reset, which overtakes the alert.
                made.shutdown(socket.SHUT_WR)
                while made.recv(4096):
                    pass

    async def body() -> None:
        mine = svid(Authority(tmp_path, "another").issue("face", FACE))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(20)
            served = asyncio.create_task(asyncio.to_thread(refuse, listener))
            at = target(authority, HostPort(*listener.getsockname()))
            condition = told(await refusal(at, mine), at, mine)
            assert condition.problem is not None and condition.problem.code == "identity-refused"
            assert "controller refuses this machine's certificate: unknown ca" in condition.message
            assert "linkerd-identity-trust-roots" in condition.hint({})
            seen = await look(at.address, "controller", at.anchors_pem, 5.0, mine)
            assert seen.unwelcome.endswith("unknown ca")
            await served

    asyncio.run(body())


KINDS = {9: "EARLY", 10: "EXPIRED", 62: "NAME", 64: "NAME", 20: "ISSUER", 26: "ISSUER"}


@pytest.mark.parametrize("code", KINDS)
def test_each_reason_has_its_kind(code: int) -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_code, error.verify_message = code, "as OpenSSL says it"
    assert trust.of(error) is trust.Distrust[KINDS[code]]
    assert trust.of(ssl.SSLError(1, "x")) is None


@pytest.mark.parametrize("kind", ["of the past", "of the future"])
def test_an_invitation_by_https_says_the_clock(tmp_path: Path, kind: str) -> None:
    fetch = (
        "import sys; from harness.errors import UnavailableError; from harness.system import https\n"
        "try: https.fetch(sys.argv[1])\n"
        "except UnavailableError as error: print(error.message, error.hint)"
    )

    async def body(authority: Authority, address: HostPort) -> None:
        command = (sys.executable, "-s", "-c", fetch, f"https://{address}/one.invitation")
        trusting = {**ENVIRONMENT, "SSL_CERT_FILE": authority.anchors}
        child = await asyncio.create_subprocess_exec(*command, env=trusting, stdout=asyncio.subprocess.PIPE)
        said, _ = await child.communicate()
        assert b"its certificate is refused: certificate " in said and b"`timedatectl` shows" in said, said

    served(tmp_path, kind, body)
