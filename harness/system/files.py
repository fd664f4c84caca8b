"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from harness import reading
from harness.errors import PermissionError_, TemporaryError, UnavailableError, UnwritableError


def write(path: Path, text: str, *, mode: int) -> None:
    """Replaces `path` in one step; the new content is never visible with wider permissions than `mode`."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise UnwritableError(path, error) from None


def remove(path: Path) -> None:
    """Also when it is not there. Raises UnwritableError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UnwritableError(path, error, "removed") from None


def sync(path: Path) -> None:
    """Has it on the disk, whatever becomes of the power: of a file its content, of a folder its names. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def overwrite(path: Path, text: str) -> None:
    """New content in the same file, for one that others own: its inode, mode, links and bind mounts stay. There is no moment in
    which it is empty."""
    try:
        with path.open("r+b") as file:
            content = text.encode(errors="surrogateescape")
            file.write(content)
            file.truncate(len(content))
    except OSError as error:
        raise UnwritableError(path, error) from None


def text(path: Path) -> str | None:
    """What is in `path`; None when it is not there or cannot be read."""
    try:
        return reading.content(path).decode("utf-8", "surrogateescape")
    except OSError:
        return None


def bounded(path: Path) -> bytes:
    """As reading.content. Raises UnavailableError, which names the file."""
    try:
        return reading.content(path)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from None


def write_json(path: Path, data: Any, *, mode: int) -> None:
    write(path, json.dumps(data, indent=2, sort_keys=True) + "\n", mode=mode)


def load_json(path: Path) -> Any:
    """What is in `path`. Raises OSError, and ValueError with the reason when it is no JSON."""
    try:
        return json.loads(reading.text(path), parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in `path`; empty when it is not there or is none (a broken state file must not keep the daemon down)."""
    try:
        data = load_json(path)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def read_line(path: Path | None) -> str | None:
    """The text of a file of one line; None when it is not there, cannot be read, or is empty."""
    try:
        return (reading.text(path).strip() or None) if path is not None else None
    except (OSError, ValueError):
        return None


def identity(path: Path) -> str:
    """What changes when a file is replaced or rewritten; empty when it is not there."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on `path`."""
    try:
        with reading.opened(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # only its owner may open it, or it is no regular file
        return _in_the_kernels_list(path)
    return False


def _in_the_kernels_list(path: Path) -> bool:
    """Whether /proc/locks has a lock on the file. Every user may read that list."""
    try:
        found = path.stat()
        held = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    name = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(name in line.split() for line in held.splitlines())


def open_lock(path: Path) -> TextIO:
    """A lock's file, which only its owner may open: every process that can open it could hold the lock. Raises OSError."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600), "w")
    os.fchmod(file.fileno(), 0o600)  # one of an older release was open to all
    return file


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Held while the block runs, also by a process that is killed in it: one harness per run directory."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_lock(path)
    except PermissionError:
        raise PermissionError_(f"{path} cannot be opened", "run it as root") from None
    except OSError as error:
        raise UnavailableError(f"{path} cannot be opened: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = read_line(path)
            raise TemporaryError(f"another meshexp-harness runs here already (pid {pid})", "`meshexp status` shows it") from None
        with contextlib.suppress(OSError):  # a full disk: the lock counts, and who holds it is only told
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()}\n".encode())
        yield
