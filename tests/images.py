"""Container images made by hand for the tests, as blobs, as archives, and pushed to a registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from harness.system import oci

PROXY = "usr/lib/linkerd/linkerd2-proxy"
ARCHITECTURE = oci.ARCHITECTURES[os.uname().machine]


def script(version: str, padding: int = 0) -> bytes:
    """A stand-in for the binary: it tells its version as the real one does, and exits as it does without configuration."""
    line = f"[     0.000237s]  INFO ThreadId(01) linkerd2_proxy: release {version} (29637b64f) by test on 2026-11-24T15:16:13Z"
    return f"#!/bin/sh\necho '{line}'\nexit 64\n#".encode() + os.urandom(padding)


def layer(*entries: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A plain tar of files, or of whatever the TarInfos say."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            member = tarfile.TarInfo(entry[0])
            member.size, member.mode = len(entry[1]), 0o755
            archive.addfile(member, io.BytesIO(entry[1]))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@dataclass(slots=True)
class Blobs:
    """Blobs by digest; the interface that `oci` reads from."""

    stored: dict[str, bytes] = field(default_factory=dict)
    manifests: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)

    def add(self, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.stored[digest] = data
        return digest

    def manifest(self, digest: str) -> bytes:
        return self.stored[digest]

    def blob(self, wanted: oci.Descriptor) -> Any:
        self.fetched.append(wanted.digest)
        return _Opened(self.stored[wanted.digest])

    def descriptor(self, digest: str, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": digest, "size": len(self.stored[digest])}

    def image(self, *layers: bytes, architecture: str = ARCHITECTURE) -> str:
        """The digest of a manifest; the layers as they are given, the lowest first."""
        diffs = [f"sha256:{hashlib.sha256(_plain(data)).hexdigest()}" for data in layers]
        config = {"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diffs}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST_TYPES[0],
            "config": self.descriptor(self.add(_json(config)), "application/vnd.oci.image.config.v1+json"),
            "layers": [self.descriptor(self.add(data), "application/vnd.oci.image.layer.v1.tar+gzip") for data in layers],
        }
        digest = self.add(_json(manifest))
        self.manifests.add(digest)
        return digest

    def index(self, *entries: tuple[str, str | None]) -> str:
        """Manifests with their architectures, as `docker buildx` writes them: with an attestation beside."""
        described = []
        for digest, architecture in entries:
            entry = self.descriptor(digest, oci.MANIFEST_TYPES[0])
            described.append(entry | ({"platform": {"os": "linux", "architecture": architecture}} if architecture else {}))
        digest = self.add(_json({"schemaVersion": 2, "mediaType": oci.INDEX_TYPES[0], "manifests": described}))
        self.manifests.add(digest)
        return digest

    def push(self, base: str, tag: str, top: str, headers: dict[str, str] | None = None) -> None:
        """`base`: http://registry/v2/repository."""
        with httpx.Client(trust_env=False, headers=headers or {}) as client:
            for digest in sorted(set(self.stored) - self.manifests):
                place = _ok(client.post(f"{base}/blobs/uploads/")).headers["Location"]
                url = httpx.URL(place).copy_merge_params({"digest": digest})
                _ok(client.put(url, content=self.stored[digest]))
            for digest in [*sorted(self.manifests - {top}, key=lambda d: b'"manifests"' in self.stored[d]), top]:
                kind = json.loads(self.stored[digest])["mediaType"]
                name = tag if digest == top else digest
                url = httpx.URL(f"{base}/manifests/{name}")
                _ok(client.put(url, content=self.stored[digest], headers={"Content-Type": kind}))

    def save_layout(self, path: Path, tops: Sequence[str]) -> None:
        """An OCI layout tar, as `skopeo copy … oci-archive:` writes it."""
        index = {"schemaVersion": 2, "manifests": [self.descriptor(top, _kind(self.stored[top])) for top in tops]}
        files: list[tuple[str, bytes]] = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]
        files += [("index.json", _json(index))] + [(f"blobs/{d.replace(':', '/')}", data) for d, data in self.stored.items()]
        path.write_bytes(layer(*files))

    def save_docker(self, path: Path, top: str) -> None:
        """What `docker save` wrote before it wrote OCI layouts."""
        manifest = json.loads(self.stored[top])
        config, digests = manifest["config"]["digest"], [entry["digest"] for entry in manifest["layers"]]
        files = [(f"{digest[7:]}/layer.tar", _plain(self.stored[digest])) for digest in digests]
        entry = {"Config": f"{config[7:]}.json", "RepoTags": ["proxy:test"], "Layers": [name for name, _ in files]}
        path.write_bytes(layer(*files, (f"{config[7:]}.json", self.stored[config]), ("manifest.json", _json([entry]))))


def _ok(response: httpx.Response) -> httpx.Response:
    assert response.is_success, response.text
    return response


class _Opened:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __enter__(self) -> Any:
        return iter([self._data[i : i + 1000] for i in range(0, len(self._data), 1000)])

    def __exit__(self, *_: object) -> None:
        pass


def _kind(data: bytes) -> str:
    return str(json.loads(data)["mediaType"])


def _json(data: Any) -> bytes:
    return json.dumps(data).encode()


def _plain(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
