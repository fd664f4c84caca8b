"""Workload APIs for tests, ours and SPIRE's, behind one Protocol; and a raw client that may break the rules."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import h2.config
import h2.connection
import h2.events
import h2.settings
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from tests.waiting import wait

REPOSITORY = Path(__file__).parent.parent
TRUST_DOMAIN = "root.linkerd.cluster.local"
SPIFFE_ID = f"spiffe://{TRUST_DOMAIN}/face"
UID = 2102
OTHER_UID = 2103
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def make_ca(
    name: str,
    key: Key,
    issuer: tuple[x509.Certificate, Key] | None = None,
    *,
    ca: bool = True,
    life: tuple[float, float] = (-60, 86400),
) -> x509.Certificate:
    """A CA certificate for `key`, self-signed without `issuer`; `life` is in seconds from now."""
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer[1] if issuer else key
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(seconds=life[0]))
        .not_valid_after(now + datetime.timedelta(seconds=life[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )


def write_pem(path: Path, *items: x509.Certificate | Key) -> Path:
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(
        b"".join(
            item.public_bytes(serialization.Encoding.PEM)
            if isinstance(item, x509.Certificate)
            else item.private_bytes(serialization.Encoding.PEM, *form)
            for item in items
        )
    )
    return path


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class WorkloadApi(Protocol):
    """Gives SPIFFE_ID to UID, and nothing to anyone else; `anchor` is the root in PEM."""

    name: str
    socket: Path
    anchor: Path

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Embedded:
    """Signs under an intermediate, so that the chain has something to show; SVIDs live 4 s."""

    name = "embedded"

    def __init__(self, directory: Path) -> None:
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = make_ca("root", root_key)
        self.socket = directory / "api" / "api.sock"
        self.anchor = write_pem(directory / "root.crt", root)
        self._certificates = write_pem(directory / "ca.crt", make_ca("intermediate", key, (root, root_key)), root)
        self._key = write_pem(directory / "ca.key", key)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "harness.system.workload_api_server", "--socket", str(self.socket)),
                *("--ca-cert", str(self._certificates), "--ca-key", str(self._key)),
                *("--entry", f"uid:{UID}={SPIFFE_ID}", "--svid-ttl", "4s", "--drop-uid", "2199"),
            ],
            cwd=REPOSITORY,
        )
        wait(lambda: accepts(self.socket))

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(60) == 0
            self._process = None


class Spire:
    """A real server and agent, set up for quick turns; SVIDs live 20 s. `stop` and `start` concern the agent alone."""

    name = "spire"

    def __init__(self, directory: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.anchor = write_pem(directory / "root.crt", make_ca("root", key))
        write_pem(directory / "root.key", key)
        (directory / "pub").mkdir(mode=0o755)
        self.socket = directory / "pub" / "api.sock"
        self._directory = directory
        self._server_socket = directory / "server.sock"
        self._token = ""
        self._server: subprocess.Popen[bytes] | None = None
        self._agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._server is None:
            self._start_server()
        self._agent = self._run("spire-agent", "agent.cfg", "-joinToken", self._token)
        wait(lambda: accepts(self.socket))

    def stop(self) -> None:
        if self._agent is not None:
            self._agent.terminate()
            self._agent.wait(60)
            self._agent = None

    def close(self) -> None:
        self.stop()
        if self._server is not None:
            self._server.terminate()
            self._server.wait(60)

    def _start_server(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (self._directory / "server.cfg").write_text(_SERVER.format(d=self._directory, port=port, td=TRUST_DOMAIN))
        (self._directory / "agent.cfg").write_text(_AGENT.format(d=self._directory, port=port, td=TRUST_DOMAIN))
        self._server = self._run("spire-server", "server.cfg")
        wait(lambda: accepts(self._server_socket))
        wait(lambda: subprocess.run(self._command("healthcheck"), capture_output=True).returncode == 0)
        alias = f"spiffe://{TRUST_DOMAIN}/agent"
        token = subprocess.check_output(self._command("token", "generate", "-spiffeID", alias, "-output", "json"))
        self._token = json.loads(token)["value"]
        entry = ("-parentID", alias, "-spiffeID", SPIFFE_ID, "-selector", f"unix:uid:{UID}", "-x509SVIDTTL", "20")
        subprocess.run(self._command("entry", "create", *entry), check=True, capture_output=True)

    def _command(self, *words: str) -> list[str]:
        verb = words[:1] if words[0] == "healthcheck" else words[:2]
        return ["spire-server", *verb, "-socketPath", str(self._server_socket), *words[len(verb) :]]

    def _run(self, program: str, config: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"{program}.log").open("ab") as log:
            arguments = [program, "run", "-config", str(self._directory / config), *words]
            return subprocess.Popen(arguments, stdout=log, stderr=log)


_SERVER = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{d}/server.sock"
  trust_domain = "{td}"
  data_dir = "{d}/server"
  ca_ttl = "24h"
  experimental {{ cache_reload_interval = "500ms" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{d}/datastore.sqlite3" }} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{d}/keys.json" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  UpstreamAuthority "disk" {{ plugin_data {{ cert_file_path = "{d}/root.crt", key_file_path = "{d}/root.key" }} }}
}}
"""
_AGENT = """
agent {{
  data_dir = "{d}/agent"
  socket_path = "{d}/pub/api.sock"
  trust_domain = "{td}"
  server_address = "127.0.0.1"
  server_port = {port}
  trust_bundle_path = "{d}/root.crt"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{d}/agent" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


@contextlib.contextmanager
def workload_api(name: str) -> Iterator[WorkloadApi]:
    """A running one. Its directory has a short name, as a socket's path may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mxd-", dir="/tmp") as text:
        directory = Path(text)
        directory.chmod(0o755)
        if name == "embedded":
            embedded = Embedded(directory)
            try:
                embedded.start()
                yield embedded
            finally:
                embedded.stop()
        else:
            spire = Spire(directory)
            try:
                spire.start()
                yield spire
            finally:
                spire.close()


def spire_is_here() -> bool:
    return bool(shutil.which("spire-server") and shutil.which("spire-agent"))


def raw_call(path: Path, method: str, metadata: dict[str, str], window: int | None = None) -> Iterator[bytes | dict[str, str]]:
    """The data chunks of a gRPC call as they come, then its last headers; a `window` sets tiny flow control."""
    config = h2.config.H2Configuration(header_encoding="utf-8")
    http = h2.connection.H2Connection(config)
    http.initiate_connection()
    if window is not None:
        http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost", "te": "trailers"}
    http.send_headers(1, list({**headers, "content-type": "application/grpc", **metadata}.items()))
    http.send_data(1, bytes(5), end_stream=True)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        while True:
            connection.sendall(http.data_to_send())
            data = connection.recv(65536)
            for event in http.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    http.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                    yield event.data or b""
                elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found = {str(key): str(value) for key, value in event.headers or ()}
                    if "grpc-status" in found:
                        yield found
            if not data:
                return
