"""SPIRE's two programs out of the archive that the project releases (spire-VERSION-linux-ARCH.tar.gz), and nothing else of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import zlib
from pathlib import Path

from harness import reading
from harness.errors import UnavailableError
from harness.system import proxy_binary
from harness.system.archive_header import Header
from harness.system.spire import AGENT, SERVER

MOST_BYTES = 512 << 20  # a program of SPIRE has some 100 MB
FOLDER = Path("/opt/spire/bin")


def install(archive: Path, folder: Path = FOLDER) -> tuple[Path, ...]:
    """Root's, and for everybody to run; whole or not at all. Raises UnavailableError."""
    made: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with reading.opened(archive) as file, tarfile.open(fileobj=file, tarinfo=Header) as tar:
            members = {Path(member.name).name: member for member in tar if member.isfile() and "/bin/" in f"/{member.name}"}
            for name in (SERVER, AGENT):
                if name not in members:
                    raise UnavailableError(f"there is no bin/{name} in {archive}", "it must be a release of SPIRE for Linux")
                made.append(folder / f".{name}.new")
                _place(tar, members[name], made[-1])
        for path in made:
            path.replace(path.with_name(path.name.removeprefix(".").removesuffix(".new")))
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise UnavailableError(f"{archive} cannot be installed: {error}") from None
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
    return folder / SERVER, folder / AGENT


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise UnavailableError(f"{member.name} is no file")
    with source, path.open("wb") as file:
        if member.size > MOST_BYTES:
            raise UnavailableError(f"{member.name} has {member.size} bytes; {MOST_BYTES} are the most that is installed")
        shutil.copyfileobj(source, file)
        os.fchmod(file.fileno(), 0o755)
    proxy_binary.check_architecture(path)
