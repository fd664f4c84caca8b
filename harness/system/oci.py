"""Container images, wherever they come from: from an index to the manifest of this platform to one file in its layers.

Nothing is unpacked. Layers are read as streams from the top one down, until one holds the wanted file. Every byte that is read
counts into the digest that the manifest names, and what was written stands only when that digest was right.
"""

from __future__ import annotations

import enum
import gzip
import hashlib
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Protocol, cast

from harness.errors import HarnessError, UnavailableError
from harness.system.archive_header import Header

MAX_DOCUMENT_BYTES = 4 << 20  # what the distribution specification asks registries to accept as a manifest
MAX_LAYER_BYTES = 1 << 30  # a layer of Linkerd's proxy image is below 20 MiB
MAX_UNPACKED_BYTES = 4 << 30  # of one layer: the end of a decompression bomb
MAX_FILE_BYTES = 512 << 20  # the binary has about 50 MB
MAX_LAYERS = 128
CHUNK = 1 << 16

INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFEST_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}  # uname's name: the image's


class IntegrityError(HarnessError):
    """The bytes are not those that a digest or a signature speaks of; exit code 1, a failed check."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob by its digest (`sha256:…`). `size` is in bytes, as stored."""

    digest: str
    size: int
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """`digests`: every name by which this image may be pinned or signed. `layers`: the lowest first."""

    digests: tuple[str, ...]
    layers: tuple[Descriptor, ...]


class Blobs(Protocol):
    def manifest(self, digest: str) -> bytes:
        """A manifest or an index, at most MAX_DOCUMENT_BYTES; the caller checks the digest."""

    def blob(self, wanted: Descriptor) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes as they are stored; the caller checks the digest."""


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def check_digest(text: str) -> str:
    """A well formed sha256 digest: it becomes part of URLs and file names."""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise UnavailableError(f"{text[:80]!r} is not a digest", "sha256: and 64 hexadecimal digits; others are not supported")
    return text


def resolve(blobs: Blobs, top: bytes, architecture: str) -> Image:
    """The image for linux/`architecture` behind a manifest or an index; an index in an index is followed once."""
    data, digests = top, [sha256(top)]
    for _ in range(3):
        document = _document(data)
        if "layers" in document:
            return _image(blobs, document, tuple(digests), architecture)
        chosen = _choose(document, architecture)
        data = blobs.manifest(chosen)
        if sha256(data) != chosen:
            raise IntegrityError(f"the manifest that came for {chosen} is {sha256(data)}")
        digests.append(chosen)
    raise UnavailableError("the image's indexes lead to more indexes, and to no manifest")


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("layers", document.get("manifests")), list):
        raise UnavailableError("this is no image manifest and no index", "schema 1 images are not supported")
    return document


def _choose(index: dict[str, Any], architecture: str) -> str:
    """The digest of the entry for this platform; entries without a platform are taken when there is no other."""
    seen, plain = [], []
    for entry in index["manifests"]:
        entry = entry if isinstance(entry, dict) else {}
        platform = entry.get("platform")
        if not isinstance(platform, dict):
            plain.append(entry)
            continue
        if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
            return check_digest(str(entry.get("digest")))
        seen.append(f"{platform.get('os')}/{platform.get('architecture')}")
    if len(plain) == 1:
        return check_digest(str(plain[0].get("digest")))
    if plain:
        raise UnavailableError(f"there are {len(plain)} images in it", "keep one of them in the archive")
    raise _missing_platform(architecture, ", ".join(sorted(set(seen) - {"unknown/unknown"})) or "no platform at all")


def _missing_platform(architecture: str, seen: str) -> UnavailableError:
    return UnavailableError(f"the image is not for linux/{architecture}, but for {seen}", "take the image of another release")


def _image(blobs: Blobs, manifest: dict[str, Any], digests: tuple[str, ...], architecture: str) -> Image:
    layers = tuple(map(_descriptor, manifest["layers"]))
    if len(layers) > MAX_LAYERS:
        raise UnavailableError(f"the image has {len(layers)} layers; {MAX_LAYERS} are the most that is read")
    check_platform(read_document(blobs, _descriptor(manifest.get("config"))), architecture)
    return Image(digests, layers)


def check_platform(config: bytes, architecture: str) -> None:
    """Raises UnavailableError if an image's configuration names another platform."""
    try:
        found = json.loads(config)
        platform = f"{found['os']}/{found['architecture']}"
    except (ValueError, KeyError, TypeError):
        raise UnavailableError("the image's configuration does not tell its platform") from None
    if platform != f"linux/{architecture}":
        raise _missing_platform(architecture, platform)


def _descriptor(entry: Any) -> Descriptor:
    try:
        size = int(entry["size"])
        found = Descriptor(check_digest(str(entry["digest"])), size, str(entry.get("mediaType", "")))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise UnavailableError("the manifest has an entry without a digest or a size") from None
    if not 0 <= size <= MAX_LAYER_BYTES:
        raise UnavailableError(f"{found.digest} claims {size} bytes; {MAX_LAYER_BYTES} are the most that is read")
    return found


def read_document(blobs: Blobs, wanted: Descriptor) -> bytes:
    """A small blob, checked."""
    if wanted.size > MAX_DOCUMENT_BYTES:
        raise UnavailableError(f"{wanted.digest} claims {wanted.size} bytes; a configuration has at most {MAX_DOCUMENT_BYTES}")
    with blobs.blob(wanted) as chunks:
        reader = Checked(chunks, wanted)
        data = reader.read(wanted.size)
        reader.finish()
    return data


class Checked:
    """A file to read from, which counts and digests what passes; `finish` reads the rest and raises IntegrityError."""

    def __init__(self, chunks: Iterator[bytes], wanted: Descriptor) -> None:
        self._chunks, self._wanted = chunks, wanted
        self._rest, self._count, self._hash = b"", 0, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        parts, missing = [], size if size >= 0 else MAX_LAYER_BYTES
        while missing > 0 and (self._rest or self._next()):
            part, self._rest = self._rest[:missing], self._rest[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def peek(self, size: int) -> bytes:
        """The first bytes, which the next read gives again."""
        self._rest = self.read(size) + self._rest
        return self._rest[:size]

    def _next(self) -> bool:
        self._rest = next(self._chunks, b"")
        self._count += len(self._rest)
        if self._count > self._wanted.size:
            raise IntegrityError(f"{self._wanted.digest} has more than the {self._wanted.size} bytes that were promised")
        self._hash.update(self._rest)
        return bool(self._rest)

    def finish(self) -> None:
        while self._next():
            pass
        if self._count < self._wanted.size:
            raise IntegrityError(f"{self._wanted.digest} was cut short: {self._count} of {self._wanted.size} bytes")
        if (found := f"sha256:{self._hash.hexdigest()}") != self._wanted.digest:
            raise IntegrityError(
                f"what came for {self._wanted.digest} is {found}", "it was changed on its way, or by the registry"
            )


class _Bounded:
    """Ends a decompression that brings more than any layer has."""

    def __init__(self, inner: gzip.GzipFile, limit: int) -> None:
        self._inner, self._limit, self._left = inner, limit, limit

    def read(self, size: int = CHUNK) -> bytes:
        data = self._inner.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise UnavailableError(f"a layer unpacks to more than {self._limit} bytes")
        return data


def extract(blobs: Blobs, image: Image, path: str, into: IO[bytes]) -> None:
    """Writes the regular file at `path` (absolute, in the image) to `into`; raises UnavailableError if there is none.

    Until this returns, what was written is not yet checked.
    """
    for layer in reversed(image.layers):
        with blobs.blob(layer) as chunks:
            reader = Checked(chunks, layer)
            try:
                found = _search(unpacked(reader), path.lstrip("/"), into)
            except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
                reader.finish()  # the better reason, if it is one
                raise UnavailableError(f"layer {layer.digest} is no tar archive: {error}") from None
            reader.finish()
        if found is _Found.HERE:
            return
        if found is _Found.DELETED:
            break
    raise UnavailableError(f"there is no {path} in the image", "is it Linkerd's proxy image?")


def unpacked(reader: Checked, limit: int = MAX_UNPACKED_BYTES) -> Any:
    """A file with the plain tar in it."""
    first = reader.peek(4)
    if first.startswith(b"\x1f\x8b"):
        return _Bounded(gzip.GzipFile(mode="rb", fileobj=cast(Any, reader)), limit)
    if first == b"\x28\xb5\x2f\xfd":
        raise UnavailableError(
            "a layer is compressed with zstd, which this Python cannot read",
            "copy the image with gzip: skopeo copy --dest-compress-format gzip …",
        )
    return reader


class _Found(enum.Enum):
    HERE = enum.auto()
    DELETED = enum.auto()  # by this layer: what lower ones hold does not count
    NOTHING = enum.auto()


def _search(layer: Any, path: str, into: IO[bytes]) -> _Found:
    """Reads one layer's archive to its end, so that a second entry of the same name is noticed."""
    folders = [str(folder) for folder in PurePosixPath(path).parents][:-1]
    deletions = {str(PurePosixPath(name).with_name(f".wh.{PurePosixPath(name).name}")) for name in (path, *folders)}
    deletions |= {f"{folder}/.wh..wh..opq" for folder in folders} | {".wh..wh..opq"}
    found = _Found.NOTHING
    with tarfile.open(fileobj=layer, mode="r|", tarinfo=Header) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined] # it would keep every entry
            name = str(PurePosixPath(member.name.lstrip("/")))
            if name == path:
                if found is _Found.HERE or not member.isreg() or member.size > MAX_FILE_BYTES:
                    raise UnavailableError(f"/{path} in the image is no plain file of a sensible size, or is there twice")
                shutil.copyfileobj(cast(IO[bytes], archive.extractfile(member)), into, CHUNK)
                found = _Found.HERE
            elif name in folders and not member.isdir():
                raise UnavailableError(f"/{name} in the image is no directory", "links are not followed")
            elif name in deletions and found is _Found.NOTHING:
                found = _Found.DELETED
    return found
