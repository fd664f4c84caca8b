"""Configuration, and files that a daemon has left, or that somebody has put in their place."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import decode, dns_text, proxy_release, status_cli, yaml_text
from harness.config import load
from harness.daemon import head_start
from harness.errors import ConfigError, HarnessError, UnavailableError
from harness.paths import Paths
from harness.reconcilers.kept_name import KeptName
from harness.specs import DnsSpec
from harness.system import (
    cordon,
    dns_query,
    files,
    oci,
    oci_archive,
    process,
    proxy_log,
    proxy_signature,
    snapshot_reader,
    spire_archive,
    spire_log,
)
from harness.values import HostPort
from tests import images
from tests.fuzz.engine import Target
from tests.fuzz.of_wire import REGISTRATION
from tests.fuzz.scratch import folder, of_file
from tests.snapshots import snapshot

_YAML = b"""\
workload: {group: face, namespace: faces, hostname: vm, addresses: [192.0.2.1]}
network:
  node: 10.9.0.1
  pod_cidrs: [10.42.0.0/24, 10.44.0.0/24]
  service_cidrs: [10.43.0.0/16]
controller: {address: "10.9.0.1:8081", identity: x, trust_anchors: /etc/meshexp/trust-anchors.pem}
identity: {mode: embedded, embedded: {ca_cert: /a, ca_key: /b}}
proxy: {user: "2102", shutdown_grace: 10s, env: {LINKERD2_PROXY_LOG: info}}
probes: {commands: {ready: [/bin/true, x]}}
"""
_VARIABLES = b"""\
WORKLOAD_NAME=face
WORKLOAD_NAMESPACE=faces
NODE_IP=10.9.0.1
POD_CIDR=10.42.0.0/24
SVC_CIDR=10.43.0.0/16, 10.44.0.0/16
MESHEXP_CONTROLLER_ADDRESS=10.9.0.1:8081
MESHEXP_PROXY_INBOUND_PORT=4143
"""
_RESOLV = b"# x\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nsearch a.example b\noptions ndots:2\n"
_LOG = b'{"level": "error", "msg": "Failed", "error": "no", "spiffe_id": "spiffe://td/spire/agent/join_token/abc"}'
_FIRST_LINE = b"[ 0.000237s]  INFO ThreadId(01) linkerd2_proxy: release 2.366.0 (29637b64f) by x on 2026-11-24T15:16:13Z"
_SIGNATURE = b'{"Base64Signature": "AAAA", "Payload": "e30=", "Cert": null}\n'
_DNS = bytes.fromhex("1234818000010001000000000161076578616d706c6500000100010161076578616d706c6500000100010000003c00047f000001")


def _paths(path: Path) -> Paths:
    return Paths(config=path.parent, state=path.parent, run=path.parent)


def _configured(path: Path) -> None:
    load.load(_paths(path), {})


def _environment(data: bytes) -> None:
    """As a process may have it: no value holds a NUL."""
    lines = data.replace(b"\0", b"").decode("utf-8", "surrogateescape").split("\n")
    pairs = [line.partition("=") for line in lines]
    where = folder() / "none"
    where.mkdir(exist_ok=True)
    load.load(Paths(config=where, state=where, run=where), {name: value for name, _, value in pairs if name})


def _status(path: Path) -> None:
    found = snapshot_reader.read(path)
    status_cli.text(found)
    status_cli.wrong_here(found)


def _kept(path: Path) -> None:
    kept = KeptName(path)
    kept.own_id("instance")
    json.dumps(decode.encode([kept.name, kept.secret, kept.copy]))


def _resolv_conf(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    dns_text.original(text)
    made = dns_text.resolv_conf(text, DnsSpec("cluster.local", (HostPort("10.43.0.10", 53),)))
    dns_text.original(made)


class _Blobs(images.Blobs):
    """One that tells what it has not, as the real ones do."""

    def manifest(self, digest: str) -> bytes:
        return self._found(digest)

    def blob(self, wanted: oci.Descriptor) -> Any:
        self._found(wanted.digest)
        return super().blob(wanted)

    def _found(self, digest: str) -> bytes:
        if digest not in self.stored:
            raise UnavailableError(f"there is no {digest}")
        return self.stored[digest]


_BLOBS = _Blobs()
_LAYER = images.layer((images.PROXY, b"program"), ("etc/x", b"y"))
_IMAGE = _BLOBS.image(_LAYER, gzip.compress(_LAYER, mtime=0))
_INDEX = _BLOBS.index((_IMAGE, images.ARCHITECTURE), (_IMAGE, None))


def _manifest(data: bytes) -> None:
    oci.resolve(_BLOBS, data, images.ARCHITECTURE)


def _layer(data: bytes) -> None:
    blobs = _Blobs()
    layer = oci.Descriptor(blobs.add(data), len(data))
    oci.extract(blobs, oci.Image(("x",), (layer,)), f"/{images.PROXY}", io.BytesIO())


def _archive(path: Path) -> None:
    with oci_archive.Archive(path) as archive:
        image = archive.image(images.ARCHITECTURE)
        oci.extract(archive, image, f"/{images.PROXY}", io.BytesIO())


def _release(path: Path) -> None:
    spire_archive.install(path, folder() / "spire")


def _text(read: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: read(data.decode(errors="replace"))


def _saved(save: Callable[[Path], object]) -> bytes:
    path = folder() / "saved"
    save(path)
    return path.read_bytes()


def _spire() -> bytes:
    members = [(f"spire-1.2.3/bin/{name}", b"#!/bin/sh\nexit 0\n") for name in ("spire-server", "spire-agent")]
    return gzip.compress(images.layer(*members), mtime=0)


_ARCHIVES = (
    _saved(lambda path: _BLOBS.save_layout(path, [_IMAGE])),
    _saved(lambda path: _BLOBS.save_docker(path, _IMAGE)),
)
_MANIFESTS = (_BLOBS.stored[_IMAGE], _BLOBS.stored[_INDEX])
_STATUS = json.dumps(snapshot()).encode()
_REGISTRATION = json.dumps(decode.encode(REGISTRATION)).encode()
_CHILD = b'{"name": "proxy", "pid": 1, "start_time": 5}'
_KEPT = b'{"name": "face-1", "secret": "xxxxxxxx", "copy": "abcd"}'
_CORDON = b'{"reason": "upgrade", "since": 1.7e9}'
_SIGNED = b'{"critical": {"image": {"docker-manifest-digest": "sha256:00"}}}'

TARGETS = (
    Target("config.yaml", of_file("etc/harness.yaml", _configured), (_YAML,), (ConfigError,)),
    Target("config.yaml.strict", _text(lambda text: yaml_text.document(text, strict=True)), (_YAML,), (ValueError,)),
    Target("config.environment", _environment, (_VARIABLES,), (ConfigError,)),
    Target("state.status", of_file("run/status.json", _status), (_STATUS,), (), tree=True),
    Target(
        "state.registration",
        of_file("run/registration.json", lambda path: head_start.known_registration(_paths(path))),
        (_REGISTRATION,),
        tree=True,
    ),
    Target("state.name", of_file("state/name.json", _kept), (_KEPT,), (), tree=True),
    Target("state.cordon", of_file("state/cordon", cordon.read), (_CORDON,), (), tree=True),
    Target("state.child", of_file("children/proxy.json", process.recorded), (_CHILD,), (), tree=True),
    Target("state.line", of_file("state/instance-id", files.read_line), (b"0b7d4c0e-0000\n",), (HarnessError,)),
    Target("dns.resolv_conf", _resolv_conf, (_RESOLV,)),
    Target("dns.servers", of_file("resolv.conf", dns_query.name_servers), (_RESOLV,), (HarnessError,)),
    Target("dns.answer", lambda data: [dns_query.read(data, kind) for kind in dns_query.Kind], (_DNS,)),
    Target("oci.manifest", _manifest, _MANIFESTS, (HarnessError,), tree=True),
    Target("oci.layer", _layer, (_LAYER, gzip.compress(_LAYER, mtime=0)), (HarnessError,)),
    Target("oci.archive", of_file("image.tar", _archive), _ARCHIVES, (HarnessError,)),
    Target("spire.archive", of_file("spire.tar.gz", _release), (_spire(),), (HarnessError,)),
    Target("spire.log", spire_log.parse, (_LOG,), (), tree=True),
    Target("proxy.log", _text(proxy_log.level), (_FIRST_LINE,)),
    Target("proxy.release", _text(proxy_release.from_output), (_FIRST_LINE,)),
    Target("proxy.version", _text(proxy_release.parse), (b"release/v2.366.0-rc.1",), (ValueError,)),
    Target("proxy.signature", proxy_signature._cosign, (_SIGNATURE * 2,)),
    Target("proxy.signed", proxy_signature._signed_digest, (_SIGNED,), (), tree=True),
)
