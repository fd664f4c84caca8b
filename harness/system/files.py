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
from harness.errors import PermissionError_, TemporaryError, UnavailableError, UnreadableError, UnwritableError


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
    """What is in `path`; None when it is not there. Raises UnreadableError."""
    try:
        return bounded(path).decode("utf-8", "surrogateescape")
    except UnreadableError as error:
        if error.absent:
            return None
        raise


def bounded(path: Path) -> bytes:
    """As reading.content. Raises UnreadableError, also when it is not there."""
    try:
        return reading.content(path)
    except OSError as error:
        raise UnreadableError(path, error) from None


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
    """The mapping in `path`, a file of our own; empty when it is not there, is none, or cannot be read: no state file keeps the
    daemon down. The last of these is logged."""
    try:
        return kept_json(path)
    except UnreadableError as error:
        if not error.absent:
            import structlog  # the commands' parser is built without libraries, and imports this module

            log = structlog.get_logger()
            log.warning("a file of our own cannot be read; it counts as empty", file=str(path), reason=error.message)
        return {}


def kept_json(path: Path) -> dict[str, Any]:
    """The mapping in `path`; empty when it is none. Raises UnreadableError, also when it is not there."""
    try:
        data = load_json(path)
    except OSError as error:
        raise UnreadableError(path, error) from None
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def read_line(path: Path | None) -> str | None:
    """The text of a file of one line; None when it is not there, is no text, or is empty. Raises UnreadableError."""
    try:
        return (bounded(path).decode("utf-8").strip() or None) if path is not None else None
    except ValueError:
        return None
    except UnreadableError as error:
        if error.absent:
            return None
        raise


def identity(path: Path) -> str:
    """What changes when a file is replaced or rewritten; empty when it is not there. It is the error where nobody can say."""
    try:
        found = path.stat()
    except reading.ABSENT:
        return ""
    except OSError as error:
        return str(error.strerror)
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on `path`. Raises UnreadableError where this user may not see whether there is one."""
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
    except PermissionError as error:
        raise UnreadableError(path, error) from None
    except OSError:
        return False
    name = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(name in line.split() for line in held.splitlines())


def holder(path: Path) -> str:
    """Of a lock, as its file says; empty where it does not, or may not be read."""
    try:
        return read_line(path) or ""
    except UnreadableError:
        return ""


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
            raise TemporaryError(
                f"another meshexp-harness runs here already (pid {holder(path) or 'unknown'})", "`meshexp status` shows it"
            ) from None
        with contextlib.suppress(OSError):  # a full disk: the lock counts, and who holds it is only told
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()}\n".encode())
        yield
