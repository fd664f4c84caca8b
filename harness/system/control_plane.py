"""The controller as the VM sees it: JSON over HTTPS with our SVID as the client certificate (httpx).

The server is verified before a byte is sent: its chain against the trust anchors, its DNS name against the configured identity.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx

from harness import decode, json_text, phrases, reading, tasks, trust
from harness.errors import ConfigError, Fault, HarnessError, PermissionError_, TemporaryError, UnavailableError
from harness.messages import HOLDER_HEADER, SECRET_HEADER, ErrorBody, Reach, Registration, RegistrationRequest, StateReport
from harness.specs import Target
from harness.system import bodies, came_back, dead_peer
from harness.system.workload_api import Svid
from harness.trust import Distrust
from harness.values import IPAddress

T = TypeVar("T")
CONNECT_SECONDS, ANSWER_SECONDS, HOLD_LEAST_SECONDS = 3.0, 10.0, 0.5
MOST_ANSWER_BYTES = reading.MAX_BYTES
"""It is kept as a file of ours."""


class RefusedError(HarnessError):
    """The controller answered, and the answer is no. `code` is one of messages.CODES."""

    exit_code = 77

    def __init__(self, body: ErrorBody, tried: str = "") -> None:
        super().__init__(f"{body.message} [{body.code}]", body.hint, tried=tried)
        self.code = body.code


class UntrustedError(HarnessError):
    """One of the two does not accept the other's certificate; `why` not."""

    exit_code = 77

    def __init__(self, came: str, hint: str = "", *, tried: str = "", why: Distrust = Distrust.ISSUER) -> None:
        super().__init__(came, hint, tried=tried)
        self.why = why


class ControlPlane:
    """Two connections, for the held GET and for short calls: each is replaced on rotation while nothing is under way on it.

    Only the first is looked after all the time. When it turns out to be dead, the other probably is, too: it is replaced before
    a call is lost on it.
    """

    def __init__(self) -> None:
        self._held, self._short = _Connection(), _Connection()
        self._holder = ""
        self._addresses: tuple[IPAddress, ...] = ()

    async def register(self, target: Target, svid: Svid, request: RegistrationRequest) -> Registration:
        """The request's holder is shown with every later call."""
        if request.addresses != self._addresses:
            # Packets of a connection that was made from an address which is gone lead nowhere, and nobody says so.
            await self._short.close()
            self._addresses = request.addresses
        response = await self._short.call(target, svid, "POST", "/v1/workloads", body=decode.encode(request))
        self._holder = request.holder
        return _body(Registration, response)

    async def watch(self, target: Target, svid: Svid, registration: Registration, secret: str) -> Registration:
        """Returns when the registration has changed, or unchanged when the hold has ended; renews the lease."""
        path = f"{_path(registration)}?after={registration.version}"
        seconds = hold_seconds(registration)
        try:
            answer = await self._held.call(target, svid, "GET", path, self._proof(secret), read_seconds=seconds)
            return _body(Registration, answer)
        except TemporaryError:
            if not self._short.calls:
                await self._short.close()
            raise

    async def report(self, target: Target, svid: Svid, registration: Registration, secret: str, report: StateReport) -> None:
        path, seconds = f"{_path(registration)}/state", max(margin_seconds(registration), HOLD_LEAST_SECONDS)
        await self._short.call(target, svid, "POST", path, self._proof(secret), body=decode.encode(report), most_seconds=seconds)

    async def reach(self, target: Target, svid: Svid, registration: Registration, secret: str) -> Reach:
        """Whether the controller can connect to this machine, which it tries now, or has tried a moment ago."""
        response = await self._short.call(
            target, svid, "POST", f"{_path(registration)}/reach", self._proof(secret), most_seconds=ANSWER_SECONDS
        )
        return _body(Reach, response)

    async def leave(self, target: Target, svid: Svid, registration: Registration, secret: str) -> None:
        await self._short.call(target, svid, "DELETE", _path(registration), self._proof(secret))

    def _proof(self, secret: str) -> Mapping[str, str]:
        return {SECRET_HEADER: secret} | ({HOLDER_HEADER: self._holder} if self._holder else {})

    async def close(self) -> None:
        await self._held.close()
        await self._short.close()


def hold_seconds(registration: Registration) -> float:
    """When a held answer is overdue: the hold that the controller promises, and a margin.

    Enough of the lease is left then to call again: a connection whose packets are silently dropped is replaced before the
    cluster takes this machine for gone.
    """
    promised = registration.report_seconds + margin_seconds(registration)
    return max(promised, HOLD_LEAST_SECONDS)  # one that promises nothing is heard all the same, when it has come to its senses


def margin_seconds(registration: Registration) -> float:
    """How long an answer may take that is not held. While a report hangs no other call begins, and a short lease would end."""
    return min(ANSWER_SECONDS, registration.lease_seconds / 3)


class _Connection:
    """`calls`: how many are under way. One that was cancelled may end after the next one has begun."""

    def __init__(self) -> None:
        self.calls = 0
        self._client: httpx.AsyncClient | None = None
        self._used: tuple[Target, Svid] | None = None

    async def call(
        self,
        target: Target,
        svid: Svid,
        method: str,
        path: str,
        proof: Mapping[str, str] | None = None,
        body: Any = None,
        read_seconds: float = ANSWER_SECONDS,
        most_seconds: float | None = None,
    ) -> httpx.Response:
        """The answer, which is a success; raises RefusedError, UntrustedError or TemporaryError otherwise.

        `most_seconds`: for all of it; by default each step has its own limit.
        """
        client = await self._connected(target, svid)
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, read=read_seconds)
        headers = {**bodies.AS_IT_IS, **(proof or {})}
        extensions = {"trace": _watch_new}
        request = client.build_request(method, path, headers=headers, json=body, timeout=timeout, extensions=extensions)
        most = most_seconds or CONNECT_SECONDS + read_seconds + ANSWER_SECONDS
        tried = f"{method} https://{target.address}{request.url.path}"
        self.calls += 1
        try:
            response = await tasks.within(most, _answer(client, request))
        except (httpx.HTTPError, ssl.SSLError) as error:  # Debian's httpx lets the second one through
            if refused := came_back.distrust(error):
                why = trust.of(refused) or Distrust.ISSUER
                text = trust.words(target.identity, refused)
                raise UntrustedError(text, why.hint("check controller.identity"), tried=tried, why=why) from None
            raise TemporaryError(came_back.within(error, CONNECT_SECONDS, read_seconds), tried=tried) from None
        finally:
            self.calls -= 1
        if response is None:
            raise TemporaryError(f"no whole answer within {most:g} s", tried=tried)
        if not response.is_success:
            raise _refusal(response, tried)
        return response

    async def _connected(self, target: Target, svid: Svid) -> httpx.AsyncClient:
        if self._client is None or self._used != (target, svid):
            await self.close()
            self._client = httpx.AsyncClient(
                base_url=f"https://{target.address}",
                verify=client_context(svid, target.anchors_pem, target.identity),
                trust_env=False,
            )
            self._used = (target, svid)
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()


async def _watch_new(event: str, info: Mapping[str, Any]) -> None:
    """httpx calls it at each step of a request: a new connection is watched from its begin. `socket_options` is too new."""
    if event == "connection.connect_tcp.complete":
        dead_peer.watch(info["return_value"].get_extra_info("socket"))


async def _answer(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """With its content, as it came. Raises UnavailableError when it is larger than any of the controller's."""
    response = await client.send(request, stream=True)
    try:
        content = await bodies.whole(response, MOST_ANSWER_BYTES, "the controller's answer")
    finally:
        await response.aclose()
    return httpx.Response(response.status_code, content=content)


def _path(registration: Registration) -> str:
    return f"/v1/workloads/{registration.namespace}/{registration.name}"


def _body(cls: type[T], response: httpx.Response) -> T:
    try:
        return decode.decode(cls, _json(response), source="the controller's answer", lenient=True)
    except (ValueError, ConfigError) as error:
        raise UnavailableError(
            f"the controller's {phrases.NOT_UNDERSTOOD}: {error}", "controller and harness may be too far apart"
        ) from None


def _json(response: httpx.Response) -> Any:
    """Raises ValueError."""
    return json_text.loads(response.content)


def _refusal(response: httpx.Response, tried: str) -> HarnessError:
    try:
        body = decode.decode(ErrorBody, _json(response), source="the controller's answer", lenient=True)
    except (ValueError, ConfigError):
        return TemporaryError(f"HTTP {response.status_code}, and the controller does not say why", tried=tried)
    if response.status_code >= 500:
        return TemporaryError(f"{body.message} [{body.code}]", body.hint, tried=tried)
    return RefusedError(body, tried)


class _NamedContext(ssl.SSLContext):
    """Asks for, and accepts, one server name, whatever address is dialled. (httpx's own way is missing in Debian's version.)"""

    server_name = ""

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = False, *_: Any, **__: Any
    ) -> ssl.SSLObject:
        """Callers give the name by position or by keyword, by version."""
        return super().wrap_bio(incoming, outgoing, server_side, self.server_name)


def server_context(anchors_pem: str, server_name: str) -> ssl.SSLContext:
    """TLS 1.3 to a server of that name, without saying who we are. Raises ConfigError."""
    context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.server_name = server_name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # An anchor need not be a root (RFC 5280, 6.1.1). Linkerd's proxies and the controller do not ask that it be one.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=anchors_pem)
    except (ssl.SSLError, ValueError, TypeError) as error:  # TypeError: it is not ASCII
        fault = Fault("controller.trust_anchors", f"holds no usable PEM certificate: {error}")
        raise ConfigError((fault,)) from None
    return context


def client_context(svid: Svid, anchors_pem: str, server_name: str) -> ssl.SSLContext:
    """TLS 1.3 with the SVID."""
    context = server_context(anchors_pem, server_name)
    load_svid(context, svid)
    return context


def load_svid(context: ssl.SSLContext, svid: Svid) -> None:
    """The key reaches OpenSSL through a memfd, never a disk. Raises PermissionError_."""
    pem = "".join(ssl.DER_cert_to_PEM_cert(der) for der in svid.chain_der) + _key_pem(svid.key_der)
    descriptor = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise PermissionError_(f"the SVID cannot be used: {error}") from None
    finally:
        os.close(descriptor)


def _key_pem(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", "PRIVATE KEY")
