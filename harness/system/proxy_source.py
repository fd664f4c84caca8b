"""Where a linkerd2-proxy binary comes from: a file that is the binary, an image in a file, or an image in a registry."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from harness import reading
from harness.errors import UnavailableError
from harness.system import oci, oci_archive, oci_registry

IN_IMAGE = "/usr/lib/linkerd/linkerd2-proxy"  # linkerd2's Dockerfile.proxy


@dataclass(frozen=True, slots=True)
class Source:
    """`digests`: what it may be pinned or signed by. `copy` writes the binary; only when it returns is that checked."""

    name: str
    digests: tuple[str, ...]
    copy: Callable[[IO[bytes]], None]


@contextlib.contextmanager
def opened(text: str, insecure: bool) -> Iterator[Source]:
    """`text`: a path, or an image reference. Of an image, only manifests are read until `copy` is called."""
    architecture = oci.ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    if text.startswith(("/", ".")) or Path(text).exists():
        with _file(Path(text), architecture) as source:
            yield source
        return
    reference = oci_registry.parse(text)
    with oci_registry.Registry(reference, insecure) as registry:
        image = oci.resolve(registry, registry.top(), architecture)
        yield Source(str(reference), image.digests, partial(oci.extract, registry, image, IN_IMAGE))


@contextlib.contextmanager
def _file(path: Path, architecture: str) -> Iterator[Source]:
    try:
        with reading.opened(path) as file:
            whole = oci.Descriptor(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", file.tell())
            file.seek(0)
            is_archive = tarfile.is_tarfile(file)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from None
    if not is_archive:
        yield Source(str(path), (whole.digest,), partial(_copy, path, whole))
        return
    with oci_archive.Archive(path) as archive:
        image = archive.image(architecture)
        yield Source(str(path), (whole.digest, *image.digests), partial(oci.extract, archive, image, IN_IMAGE))


def _copy(path: Path, wanted: oci.Descriptor, into: IO[bytes]) -> None:
    """Checks again: the file may have been changed since its digest was taken."""
    with reading.opened(path) as file:
        reader = oci.Checked(iter(lambda: file.read(oci.CHUNK), b""), wanted)
        while chunk := reader.read(oci.CHUNK):
            into.write(chunk)
        reader.finish()
