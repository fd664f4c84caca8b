"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from harness import reading
from harness.errors import PermissionError_, TemporaryError, UnavailableError, UnreadableError, UnwritableError

_RANDOM_BYTES, _ABANDONED_SECONDS = 8, 60.0
"""Of the name of a file that is being written; and when its writer must have been killed: no write of ours takes so long."""
_SWEPT: set[Path] = set()
_FLOCK = struct.Struct("hhqqi")


def write(path: Path, text: str, *, mode: int, durable: bool = False) -> None:
    """Replaces `path` in one step; the new content is never visible with wider permissions than `mode`.

    `durable`: it is on the disk when this returns, and so is its name: for what must outlive a loss of power. That can take
    seconds, so an event loop has it done in a thread. Raises UnwritableError.
    """
    fresh = path.with_name(f".{path.name}.{os.urandom(_RANDOM_BYTES).hex()}")
    try:
        _make_folder(path.parent, durable)
        _sweep(path)
        # Nobody can know the name, and what stands there all the same, such as a pipe or a link, is not opened.
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            if durable:
                os.fsync(descriptor)
        fresh.replace(path)
        if durable:
            sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise UnwritableError(path, error) from None


def _make_folder(folder: Path, durable: bool) -> None:
    missing = [one for one in (folder, *folder.parents) if not one.exists()] if durable else []
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync(one.parent)


def _sweep(path: Path) -> None:
    """Removes what a writer of `path` has left that was killed. A look at the folder for each file of each process is enough."""
    if path in _SWEPT:
        return
    _SWEPT.add(path)
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}")
    for left in reading.matches(path.parent, ".*"):
        with contextlib.suppress(FileNotFoundError):  # its writer, or another process, was faster
            if ours.fullmatch(left.name) and time.time() - left.lstat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()


def set_aside(path: Path, why: str) -> None:
    """Keeps a file of ours that is of no use as `NAME.unusable`, for somebody to look at: only the first.

    `why` is logged. What cannot be renamed stays where it is.
    """
    import structlog  # the commands' parser is built without libraries, and imports this module

    aside = path.with_name(f"{path.name}.unusable")
    kept = f"{aside} is there already"
    try:
        if not os.path.lexists(aside):
            path.rename(aside)
            kept = f"it is {aside} now"
    except OSError as error:
        kept = f"it cannot be renamed: {error.strerror}"
    log = structlog.get_logger()
    log.warning("a file of our own is of no use; it counts as not there", file=str(path), reason=why, kept=kept)


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
    which it is empty. It is on the disk when this returns. Raises UnwritableError, also for all but a regular file."""
    try:
        reading.opened(path).close()  # a pipe would hold the next line up
        with path.open("r+b") as file:
            content = text.encode(errors="surrogateescape")
            file.write(content)
            file.truncate(len(content))
            file.flush()
            os.fsync(file.fileno())
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


def write_json(path: Path, data: Any, *, mode: int, durable: bool = False) -> None:
    """As `write`."""
    write(path, json.dumps(data, indent=2, sort_keys=True) + "\n", mode=mode, durable=durable)


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
    """Whether a process holds the lock on `path`. Raises UnreadableError where this user may not see whether there is one.

    It only asks: who took the lock to find out would hold it for an instant, in which a daemon could not start.
    """
    try:
        with reading.opened(path) as file:
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _whole_file())
    except OSError:  # only its owner may open it, or it is no regular file
        return _in_the_kernels_list(path)
    # A process of an earlier release has the other kind of lock, of which nobody can ask but in that list.
    return _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK or _in_the_kernels_list(path)


def take(descriptor: int) -> None:
    """Takes the lock on a file that is open for writing, until it is closed. Raises BlockingIOError while another holds it.

    It is two locks. Who holds the second, another process can ask without taking it. The first one is that of earlier releases,
    which may run while this one is installed over them.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _whole_file())
    except BlockingIOError:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        raise


def _whole_file() -> bytes:
    """A lock for writing (fcntl(2)): type, whence, start, length (0: to the end), pid (0: of an open file)."""
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


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
    """The pid of a lock's holder, as its file says; empty where it does not, or may not be read."""
    return " ".join(_holder(path)[:1])


def holders_start(path: Path) -> str:
    """When that process began, as its file says: field 22 of proc(5)'s stat. Empty as `holder`, and for an earlier release."""
    return " ".join(_holder(path)[1:2])


def _holder(path: Path) -> list[str]:
    try:
        return (read_line(path) or "").split()
    except UnreadableError:
        return []


def open_lock(path: Path) -> TextIO:
    """A lock's file, which only its owner may open: every process that can open it could hold the lock. Raises OSError."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600), "w")
    os.fchmod(file.fileno(), 0o600)  # one of an older release was open to all
    return file


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Held while the block runs, also by a process that is killed in it: one harness per run directory."""
    from harness.system import procfs  # the commands' parser needs little, and imports this module

    own = procfs.own()
    holder_line = f"{own.pid} {own.started}" if own.started is not None else str(own.pid)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open_lock(path)
    except PermissionError:
        raise PermissionError_(f"{path} cannot be opened", "run it as root") from None
    except OSError as error:
        raise UnavailableError(f"{path} cannot be opened: {error.strerror}") from None
    with file:
        try:
            take(file.fileno())
        except BlockingIOError:
            raise TemporaryError(
                f"another meshexp-harness runs here already (pid {holder(path) or 'unknown'})", "`meshexp status` shows it"
            ) from None
        with contextlib.suppress(OSError):  # a full disk: the lock counts, and who holds it is only told
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{holder_line}\n".encode())
        yield
