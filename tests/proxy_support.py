"""For the tests of `meshexp proxy`: the command on a state directory of its own, images, and registries, good and bad."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from harness.system import proxy_store
from tests import images
from tests.images import ARCHITECTURE, PROXY, Blobs, layer
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
REAL = shutil.which("linkerd2-proxy")


class Machine:
    """A state directory, and the command on it."""

    def __init__(self, state: Path, enter: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
        """`enter`: a prefix of the command line, such as into a network namespace."""
        self.state, self.enter, self.env = state, enter, env or {}
        self.store = proxy_store.Store(state / "proxy")

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.enter, sys.executable, "-m", "harness", "proxy", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"MESHEXP_STATE_DIR": str(self.state), "PYTHONDONTWRITEBYTECODE": "1", **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: object) -> tuple[int, str]:
        with self.start(*arguments) as process:
            output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def ok(self, *arguments: object) -> str:
        status, output = self.run(*arguments)
        assert status == 0, output
        return output

    def refuses(self, status: int, text: str, *arguments: object) -> None:
        """An error of ours with this exit code, and nothing left behind."""
        before = self.files
        found = self.run(*arguments)
        assert found[0] == status and text in found[1] and "Traceback" not in found[1], found
        assert self.files == before

    @property
    def files(self) -> list[str]:
        proxy = self.state / "proxy"
        return sorted(str(p.relative_to(proxy)) for p in proxy.rglob("*") if not p.name.endswith(".lock"))

    @property
    def versions(self) -> list[str]:
        return [str(entry.release) for entry in self.store.installed()]

    @property
    def current(self) -> str:
        return str((self.state / "proxy" / "current").readlink())


@contextlib.contextmanager
def new_machine() -> Iterator[Machine]:
    state = Path(tempfile.mkdtemp(prefix="mxg-"))
    state.chmod(0o755)  # pytest's own folders are closed to the proxy's user
    try:
        yield Machine(state)
    finally:
        shutil.rmtree(state)


def binary(folder: Path, version: str) -> Path:
    path = folder / f"binary-{version}"
    path.write_bytes(images.script(version))
    return path


def made(version: str, padding: int = 20_000) -> Blobs:
    blobs = Blobs()
    content = Path(REAL).read_bytes() if REAL and version == "real" else images.script(version, padding)
    layers = (
        gzip.compress(layer(("etc/passwd", b""))),
        gzip.compress(layer((PROXY, content)), 1),
        gzip.compress(layer(("bin/sleep", b"s"))),
    )
    own = blobs.image(*layers)
    other = blobs.image(gzip.compress(layer((PROXY, b"other"))), architecture="s390x")
    blobs.index((other, "s390x"), (own, ARCHITECTURE))
    return blobs


def top(blobs: Blobs) -> str:
    return next(d for d in blobs.manifests if b'"manifests"' in blobs.stored[d])


def own_manifest(blobs: Blobs) -> str:
    return next(d for d in blobs.manifests if json.loads(blobs.stored[d]).get("layers", [None])[2:])


@contextlib.contextmanager
def registry(folder: Path, auth: str = "", host: str = "127.0.0.1", tls: str = "", enter: Sequence[str] = ()) -> Iterator[str]:
    """Debian's docker-registry, on loopback or on an address of a network namespace; yields its host:port."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    port = free_port()
    address = f"{host}:{port}"
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '{address}', secret: x{tls}}}\n{auth}"
    )
    log = (folder / "registry.log").open("w")
    command = [*enter, "setpriv", "--pdeathsig", "KILL", program, "serve", str(config)]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(200):
                if subprocess.check_output([*enter, "ss", "-ltnH", f"sport = :{port}"]):
                    break
                time.sleep(0.05)
            else:
                raise AssertionError((folder / "registry.log").read_text())
            yield address
        finally:
            process.kill()


TOKEN_AUTH = "auth: {{token: {{realm: '{realm}', service: test, issuer: mx, rootcertbundle: '{folder}/issuer.pem'}}}}\n"


TLS = ", tls: {{certificate: '{folder}/issuer.pem', key: '{folder}/issuer.key'}}"


def issuer(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    pem, own = folder / "issuer.pem", folder / "issuer.key"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command: list[str | Path] = ["openssl", "req", "-x509", *curve, "-nodes", "-subj", "/CN=mx", "-days", "2"]
    command += ["-addext", "subjectAltName=IP:192.0.2.1"]
    command += ["-keyout", own, "-out", pem]
    subprocess.run(command, check=True, capture_output=True)
    key = serialization.load_pem_private_key(own.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key, base64.b64decode("".join(pem.read_text().splitlines()[1:-1]))


def jwt(key: ec.EllipticCurvePrivateKey, certificate: bytes, repository: str, actions: list[str]) -> str:

    now = int(time.time())
    access = [{"type": "repository", "name": repository, "actions": actions}]
    claims = {"iss": "mx", "sub": "", "aud": "test", "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1", "access": access}
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(certificate).decode()]}
    text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims))
    r, s = decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
    signature = base64.urlsafe_b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).rstrip(b"=")
    return (text + b"." + signature).decode()


class Answer:
    """`hold`: sent half, then waited for; `claim`: the Content-Length, if it is a lie."""

    def __init__(self, status: int, body: bytes = b"", claim: int | None = None, **headers: str) -> None:
        self.status, self.body, self.claim, self.headers = status, body, claim, headers
        self.hold: threading.Event | None = None
        self.half_sent = threading.Event()

    def body_json(self) -> Any:
        return json.loads(self.body)


@contextlib.contextmanager
def served(answer: Callable[[str], Answer]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answer(self.path)
            with contextlib.suppress(OSError):
                self.send_response(found.status)
                for name, value in found.headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(found.body) if found.claim is None else found.claim))
                self.end_headers()
                half = len(found.body) // 2
                self.wfile.write(found.body[:half])
                self.wfile.flush()
                if found.hold is not None:
                    found.half_sent.set()
                    found.hold.wait(60)
                self.wfile.write(found.body[half:])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def registry_of(blobs: Blobs, faults: dict[str, Answer]) -> Callable[[str], Answer]:
    """A registry without faults but those: by the last part of the path."""

    def answer(path: str) -> Answer:
        last = path.rpartition("/")[2]
        return faults.get(last) or Answer(200, blobs.stored[top(blobs) if last == "t" else last])

    return answer


def proxy_layer(blobs: Blobs) -> str:
    return str(json.loads(blobs.stored[own_manifest(blobs)])["layers"][1]["digest"])
