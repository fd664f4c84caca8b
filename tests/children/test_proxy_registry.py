"""`meshexp proxy install` from Debian's docker-registry, from registries that misbehave, and killed in between."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.errors import HarnessError, TemporaryError, UnavailableError
from harness.system import oci, oci_registry, proxy_source
from tests import namespaces
from tests.images import Blobs
from tests.ports import free_port
from tests.proxy_support import (
    REAL,
    TLS,
    TOKEN_AUTH,
    Answer,
    Machine,
    binary,
    issuer,
    jwt,
    made,
    new_machine,
    own_manifest,
    proxy_layer,
    registry,
    registry_of,
    served,
    top,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the store belongs to root")


@pytest.fixture
def machine() -> Iterator[Machine]:
    with new_machine() as found:
        yield found


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    return made("2.366.0")


def test_from_a_registry(machine: Machine, tmp_path: Path) -> None:
    blobs = made("real" if REAL else "2.366.0")
    index = top(blobs)
    with registry(tmp_path) as address:
        blobs.push(f"http://{address}/v2/linkerd/proxy", "edge-26.8.3", index)
        name = f"{address}/linkerd/proxy"
        machine.refuses(1, f"not sha256:{'0' * 64}", "install", "--from", f"{name}:edge-26.8.3", "--digest", "sha256:" + "0" * 64)
        machine.ok("install", "--from", f"{name}:edge-26.8.3", "--digest", index)
        assert json.loads(machine.ok("list", "-o", "json"))[0]["origin"] == f"{name}:edge-26.8.3"
        if REAL:
            assert (machine.state / "proxy/current/linkerd2-proxy").read_bytes() == Path(REAL).read_bytes()
        for pinned in (f"{name}@{index}", f"{name}:ignored@{own_manifest(blobs)}"):
            assert "already" in machine.ok("install", "--from", pinned, "--digest", own_manifest(blobs))
        machine.refuses(69, "no such image", "install", "--from", f"{name}:nothing")
        machine.refuses(69, "no such image", "install", "--from", f"{address}/other:nothing")
        # A layer changed on the registry's own disk.
        (data,) = (tmp_path / "data").rglob(f"{json.loads(blobs.stored[own_manifest(blobs)])['layers'][1]['digest'][7:]}/data")
        whole = data.read_bytes()
        data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        machine.refuses(1, "what came for", "install", "--from", f"{name}:edge-26.8.3")
        data.write_bytes(whole[:-1000])
        machine.refuses(1, "cut short", "install", "--from", f"{name}:edge-26.8.3")
        data.unlink()
        machine.refuses(69, "a part of it is missing", "install", "--from", f"{name}:edge-26.8.3")


def test_a_registry_with_bearer_tokens(machine: Machine, blobs: Blobs, tmp_path: Path) -> None:
    key, certificate = issuer(tmp_path)
    asked: list[str] = []

    def give(path: str) -> Answer:
        asked.append(path)
        actions = ["pull", "push"] if "push" in path else ["pull"]
        if "secret" in path:
            return Answer(401)
        return Answer(200, json.dumps({"token": jwt(key, certificate, "linkerd/proxy", actions)}).encode())

    with (
        served(give) as tokens,
        registry(tmp_path, TOKEN_AUTH.format(realm=f"http://{tokens}/token", folder=tmp_path)) as address,
    ):
        pass_on = {"Authorization": f"Bearer {give('push').body_json()['token']}"}
        blobs.push(f"http://{address}/v2/linkerd/proxy", "t", top(blobs), pass_on)
        asked.clear()
        machine.ok("install", "--from", f"{address}/linkerd/proxy:t")
        assert len(asked) == 1 and "scope=repository%3Alinkerd%2Fproxy%3Apull" in asked[0] and "service=test" in asked[0]
        machine.refuses(77, "the registry refuses", "install", "--from", f"{address}/secret/proxy:t")
        machine.refuses(77, "the registry refuses", "install", "--from", f"{address}/another/proxy:t")


def test_tls_is_the_rule_and_is_checked(machine: Machine, blobs: Blobs, tmp_path: Path) -> None:
    issuer(tmp_path)
    with registry(tmp_path) as address:
        blobs.push(f"http://{address}/v2/linkerd/proxy", "t", top(blobs))
    with namespaces.namespace() as inside:
        inside.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
        here = Machine(machine.state, inside.enter)
        trusting = Machine(machine.state, inside.enter, {"SSL_CERT_FILE": str(tmp_path / "issuer.pem")})
        with registry(tmp_path, "", "192.0.2.1", TLS.format(folder=tmp_path), inside.enter) as address:
            here.refuses(77, "self-signed certificate", "install", "--from", f"{address}/linkerd/proxy:t")
            trusting.ok("install", "--from", f"{address}/linkerd/proxy:t")
        with registry(tmp_path, "", "192.0.2.1", "", inside.enter) as address:
            here.refuses(75, "try again", "install", "--from", f"{address}/linkerd/proxy:t")
            here.ok("install", "--from", f"{address}/linkerd/proxy:t", "--insecure-registry")


@pytest.mark.parametrize("place", ["index", "manifest", "layer"])
@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        (Answer(500), 75, "status 500"),
        (Answer(429), 75, "status 429"),
        (Answer(404), 69, "is missing"),
        (Answer(403), 77, "refuses (status 403)"),
        (Answer(401), 77, "asks for a password"),
        (Answer(401, WWW_Authenticate="Basic realm=x"), 77, "skopeo"),
        (Answer(401, WWW_Authenticate='Bearer realm="http://192.0.2.1/token"'), 69, "without TLS"),
        (Answer(302, Location="http://192.0.2.1/blob"), 69, "without TLS"),
        (Answer(302, Location="/v2/p/manifests/loop"), 75, "redirects"),
        (Answer(200, b"x" * 400, claim=900), 75, "nothing was installed"),
        (Answer(418), 69, "status 418"),
    ],
    ids=lambda value: value.status if isinstance(value, Answer) else None,
)
def test_registries_that_misbehave(blobs: Blobs, place: str, fault: Answer, status: int, text: str) -> None:
    last = {"index": "t", "manifest": own_manifest(blobs), "layer": proxy_layer(blobs)}[place]
    faults = {last: fault, "loop": Answer(302, Location="/v2/p/manifests/loop")}
    with (
        served(registry_of(blobs, faults)) as address,
        pytest.raises(HarnessError) as caught,
        proxy_source.opened(f"{address}/p:t", insecure=False) as source,
    ):
        source.copy(io.BytesIO())
    assert caught.value.exit_code == status and text in f"{caught.value.message} {caught.value.hint}"


def test_no_tls_and_nobody_there(machine: Machine) -> None:
    with served(lambda _: Answer(200)) as address:
        port = address.rpartition(":")[2]
        # A name that is not loopback by itself is asked by TLS, which this server does not speak.
        machine.refuses(75, "try again", "install", "--from", f"127.0.0.1.nip.invalid:{port}/p:t")
    machine.refuses(75, "refused", "install", "--from", f"127.0.0.1:{free_port()}/p:t")


def test_plain_http_to_another_host_needs_the_flag(blobs: Blobs) -> None:
    reference = oci_registry.parse("192.0.2.1:5000/p:t")
    with oci_registry.Registry(reference, insecure=False) as secure, oci_registry.Registry(reference, insecure=True) as plain:
        request = httpx.Request("GET", "http://192.0.2.1:5000/v2/")
        plain._check_scheme(request)
        with pytest.raises(UnavailableError):
            secure._check_scheme(request)
        with pytest.raises(UnavailableError):
            plain._check_scheme(httpx.Request("GET", "http://192.0.2.2:5000/v2/"))


def test_a_silent_registry_is_given_up(blobs: Blobs) -> None:
    held = Answer(200, blobs.stored[proxy_layer(blobs)])
    held.hold = threading.Event()
    with served(registry_of(blobs, {"t": held})) as address:
        client = oci_registry.Registry(oci_registry.parse(f"{address}/p:t"), False, silence=0.3)
        with client, pytest.raises(TemporaryError, match="no answer within"):
            client.top()
        held.hold.set()


def test_a_manifest_without_end_is_cut_off(machine: Machine) -> None:
    with served(lambda _: Answer(200, b" " * (oci.MAX_DOCUMENT_BYTES + 1))) as address:
        machine.refuses(69, "the manifest has more than", "install", "--from", f"{address}/p:t")


def test_killed_in_the_middle_of_a_download(machine: Machine, tmp_path: Path) -> None:
    """Nothing is installed, the lock is free again, and the next install sweeps what was there."""
    machine.ok("install", "--from", binary(tmp_path, "2.331.0"))
    machine.ok("install", "--from", binary(tmp_path, "2.340.0"))
    before = machine.files
    blobs = made("2.366.0", 300_000)
    held = Answer(200, blobs.stored[proxy_layer(blobs)])
    held.hold = threading.Event()
    faults = {proxy_layer(blobs): held}
    with served(registry_of(blobs, faults)) as address:
        for number in (signal.SIGKILL, signal.SIGINT):
            held.half_sent.clear()
            process = machine.start("install", "--from", f"{address}/p:t")
            assert held.half_sent.wait(20)
            # Meanwhile a second install is refused at once, and a change of versions is not held up.
            machine.refuses(75, "under way", "install", "--from", binary(tmp_path, "2.350.0"))
            machine.ok("use", "2.340.0")
            machine.ok("rollback")
            process.send_signal(number)
            process.communicate(timeout=60)
            assert machine.versions == ["2.331.0", "2.340.0"]
        held.hold.set()
        faults.clear()
        machine.ok("install", "--from", f"{address}/p:t")
    added = set(machine.files) - set(before)
    assert added == {"2.366.0", "2.366.0/linkerd2-proxy", "2.366.0/origin.json", "previous"}
    assert machine.current == "2.331.0"
