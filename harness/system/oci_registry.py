"""A registry's HTTP API (OCI distribution specification, reading only), with the anonymous tokens that registries ask for."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from harness import trust
from harness.errors import HarnessError, PermissionError_, TemporaryError, UnavailableError, UsageError
from harness.system import bodies, came_back, oci

CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 30.0
MOST_TOKEN_BYTES = 1 << 20
_FAILURES = (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OverflowError)  # the last one: of a port that is none
_ACCEPT = ", ".join(oci.INDEX_TYPES + oci.MANIFEST_TYPES)


@dataclass(frozen=True, slots=True)
class Reference:
    """`registry/repository`, and a tag or a digest in it."""

    registry: str
    repository: str
    version: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{'@' if ':' in self.version else ':'}{self.version}"

    @property
    def host(self) -> str:
        return httpx.URL(f"https://{self.registry}").host


_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::\d{1,5})?"
_NAME = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(rf"({_HOST})/({_NAME}(?:/{_NAME})*)(?::(\w[\w.-]{{0,127}}))?(?:@(sha256:[0-9a-f]{{64}}))?", re.ASCII)


def parse(text: str) -> Reference:
    """Raises UsageError. The registry must be named: there is no default one. With tag and digest, the digest counts."""
    match = _REFERENCE.fullmatch(text)
    if match is None or not (re.search(r"[.:]", match[1]) or match[1] == "localhost") or not (match[3] or match[4]):
        raise UsageError(
            f"{text!r} is neither a file nor an image reference", "such as cr.l5d.io/linkerd/proxy:edge-26.8.3, or …@sha256:…"
        )
    return Reference(match[1], match[2], match[4] or match[3])


class Registry:
    """One repository; use it in a `with` statement. Raises harness errors only."""

    def __init__(self, reference: Reference, insecure: bool, silence: float = SILENCE_SECONDS) -> None:
        self._reference = reference
        local = _is_loopback(reference.host)
        self._plain_hosts = {reference.host} if local or insecure else set[str]()
        self._base = f"{'http' if self._plain_hosts else 'https'}://{reference.registry}/v2/{reference.repository}"
        self._token, self._silence = "", silence
        self._client = httpx.Client(
            timeout=httpx.Timeout(silence, connect=CONNECT_SECONDS),
            follow_redirects=True,  # blobs often lie elsewhere; httpx takes the token off when the host changes
            event_hooks={"request": [self._check_scheme]},
            headers={"User-Agent": "meshexp-harness", **bodies.AS_IT_IS},
            trust_env=not local,  # the machine's HTTPS_PROXY
            verify=ssl.create_default_context(),  # the machine's own certificates, whatever httpx brings along
        )

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def top(self) -> bytes:
        """What the reference names: an index or a manifest."""
        return self.manifest(self._reference.version)

    def manifest(self, digest: str) -> bytes:
        with self._get(f"{self._base}/manifests/{digest}", _ACCEPT) as chunks:
            data = bodies.whole_blocking(chunks, oci.MAX_DOCUMENT_BYTES, "the manifest")
        if ":" in digest and oci.sha256(data) != digest:
            raise oci.IntegrityError(f"the manifest that came for {digest} is {oci.sha256(data)}")
        return data

    @contextlib.contextmanager
    def blob(self, wanted: oci.Descriptor) -> Iterator[Iterator[bytes]]:
        with self._get(f"{self._base}/blobs/{wanted.digest}", "*/*") as chunks:
            yield chunks

    @contextlib.contextmanager
    def _get(self, url: str, accept: str) -> Iterator[Iterator[bytes]]:
        with contextlib.ExitStack() as stack:
            response = self._send(stack, url, accept)
            if response.status_code == 401:
                challenge = response.headers.get("WWW-Authenticate", "")
                response.close()
                self._token = self._fetch_token(challenge)
                response = self._send(stack, url, accept)
            if response.status_code != 200:
                raise self._refusal(response)
            yield self._chunks(response)

    def _send(self, stack: contextlib.ExitStack, url: str, accept: str) -> httpx.Response:
        headers = {"Accept": accept} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        try:
            return stack.enter_context(self._client.stream("GET", url, headers=headers))
        except _FAILURES as error:
            raise self._translated(error) from None

    def _chunks(self, response: httpx.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_raw(oci.CHUNK)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise self._translated(error) from None

    def _fetch_token(self, challenge: str) -> str:
        """The answer to `WWW-Authenticate: Bearer realm=…`: anonymous, so only public repositories are open to us."""
        words = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        if not challenge.lower().startswith("bearer ") or "realm" not in words:
            raise PermissionError_(f"{self._reference.registry} asks for a password", _PRIVATE)
        wanted = {"scope": f"repository:{self._reference.repository}:pull"}
        wanted |= {name: words[name] for name in ("service", "scope") if name in words}
        try:
            with self._client.stream("GET", words["realm"], params=wanted) as response:
                if response.status_code != 200:
                    raise self._refusal(response)
                text = bodies.whole_blocking(self._chunks(response), MOST_TOKEN_BYTES, "the registry's token")
        except _FAILURES as error:
            raise self._translated(error) from None
        try:
            answer = json.loads(text)
            return _header_word(answer.get("token") or answer["access_token"])
        except (ValueError, KeyError, AttributeError, RecursionError):
            raise UnavailableError(f"{words['realm']} answers without a token") from None

    def _refusal(self, response: httpx.Response) -> HarnessError:
        what, status = f"{self._reference}: the registry", response.status_code
        if status in (401, 403):
            return PermissionError_(f"{what} refuses (status {status})", f"is the name right? {_PRIVATE}")
        if status == 404:
            return UnavailableError(f"{what} has no such image, or a part of it is missing", "check name, tag and digest")
        if status == 429 or status >= 500:
            return TemporaryError(f"{what} answers with status {status}", "try again later")
        return UnavailableError(f"{what} answers with status {status}")

    def _check_scheme(self, request: httpx.Request) -> None:
        """Before every request, also one that a redirect asked for."""
        if request.url.scheme != "https" and request.url.host not in self._plain_hosts:
            raise UnavailableError(
                f"{request.url.host} would be asked without TLS",
                "plain http is for loopback, or for the registry itself with --insecure-registry",
            )

    def _translated(self, error: Exception) -> HarnessError:
        tried = f"GET {self._base}"
        if refused := came_back.distrust(error):
            return PermissionError_(trust.words(self._reference.registry, refused), trust.hint_of(refused), tried=tried)
        reason = came_back.within(error, CONNECT_SECONDS, self._silence)
        return TemporaryError(reason, "try again; nothing was installed", tried=tried)


_PRIVATE = "a private repository: copy it with `skopeo copy docker://… oci-archive:FILE` and install from FILE"


def _header_word(token: object) -> str:
    """What may stand in a header. Raises ValueError."""
    text = str(token)
    if not (text.isascii() and text.isprintable()):
        raise ValueError("no token")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
