"""Images in a file: an OCI layout tar, or what `docker save` and `podman save` write."""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from harness import reading
from harness.errors import UnavailableError
from harness.system import oci
from harness.system.archive_header import Header


class Archive:
    """Reads one archive; use it in a `with` statement. Members are read in place, nothing is unpacked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = reading.opened(path)
            self._tar = tarfile.open(fileobj=self._file, mode="r:", tarinfo=Header)  # noqa: SIM115 — closed by __exit__
            self._members = {member.name.removeprefix("./"): member for member in self._tar}
        except tarfile.TarError as error:
            self._file.close()
            raise UnavailableError(f"{path} is no readable tar archive: {error}", "unpack gzip first") from None
        self._names: dict[str, str] = {}  # of blobs that are not under their digest

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()
        self._file.close()

    def image(self, architecture: str) -> oci.Image:
        if "index.json" in self._members:
            return oci.resolve(self, self._document("index.json"), architecture)
        if "manifest.json" in self._members:
            return self._saved(architecture)
        raise UnavailableError(f"{self._path} is no image archive", "it holds neither an index.json nor a manifest.json")

    def manifest(self, digest: str) -> bytes:
        return self._document(_place(digest))

    @contextlib.contextmanager
    def blob(self, wanted: oci.Descriptor) -> Iterator[Iterator[bytes]]:
        with self._open(self._names.get(wanted.digest, _place(wanted.digest))) as file:
            yield iter(lambda: file.read(oci.CHUNK), b"")

    def _saved(self, architecture: str) -> oci.Image:
        """`docker save`: the layers are plain tars, and the image's configuration, whose digest is its id, has their digests."""
        try:
            entries = json.loads(self._document("manifest.json"))
            if len(entries) != 1:
                raise UnavailableError(f"there are {len(entries)} images in {self._path}", "save one image only")
            names = [str(name) for name in entries[0]["Layers"]]
            config = self._document(str(entries[0]["Config"]))
            oci.check_platform(config, architecture)
            digests = [oci.check_digest(str(digest)) for digest in json.loads(config)["rootfs"]["diff_ids"]]
            self._names = dict(zip(digests, names, strict=True))
        except (ValueError, KeyError, TypeError) as error:
            raise UnavailableError(f"{self._path} is not what docker save writes: {error}") from None
        layers = tuple(oci.Descriptor(digest, self._size(name)) for digest, name in zip(digests, names, strict=True))
        return oci.Image((oci.sha256(config),), layers)

    def _document(self, name: str) -> bytes:
        with self._open(name) as file:
            data = file.read(oci.MAX_DOCUMENT_BYTES + 1)
        if len(data) > oci.MAX_DOCUMENT_BYTES:
            raise UnavailableError(f"{name} in {self._path} has more than {oci.MAX_DOCUMENT_BYTES} bytes")
        return data

    def _size(self, name: str) -> int:
        with self._open(name) as file:
            return file.seek(0, 2)

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        """A member; old `docker save` has links between layers, which tarfile follows within the archive only."""
        try:
            file: Any = self._tar.extractfile(self._members[name]) if name in self._members else None
        except (KeyError, tarfile.TarError):
            file = None
        if file is None:
            raise UnavailableError(f"{self._path} is not complete: there is no {name} in it")
        with file:
            try:
                yield cast(IO[bytes], file)
            except tarfile.ReadError:
                raise UnavailableError(f"{self._path} is cut short in {name}") from None


def _place(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
