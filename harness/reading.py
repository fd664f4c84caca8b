"""Reads a file whole, whatever somebody has put in its place: the one way in which files of the machine are read.

A pipe or a device would hold a reader up for ever, or give bytes without an end: neither is opened. What has too many bytes is
refused. On a network file system that hangs no reader can do anything.

It imports nothing of ours: the configuration and the controller read by it too.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

ABSENT = (FileNotFoundError, NotADirectoryError)
"""What says that nothing is there. Every other error, such as of rights or of a disk, says only that nobody knows."""
MAX_BYTES = 1 << 20
"""Of a file that is read whole; the largest of ours, a registration, is bounded by messages.MAX_BODY_BYTES."""


def opened(path: Path) -> BufferedReader:
    """For what is too large to be read whole, such as a program. Raises OSError, also for all but a regular file."""
    # Looked at before it is opened: the opening alone makes some devices act, such as a watchdog.
    _check(path, path.stat().st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check(path, os.fstat(descriptor).st_mode)  # another may stand there now
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def content(path: Path, most: int = MAX_BYTES) -> bytes:
    """Raises OSError, also for what is no regular file or has more than `most` bytes; its strerror says what is wrong."""
    with opened(path) as file:
        return whole(file, most)


def whole(file: BinaryIO, most: int = MAX_BYTES) -> bytes:
    """Of what an operator gives a command by hand, which may be a pipe."""
    found = file.read(most + 1)
    if len(found) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes")
    return found


def text(path: Path, most: int = MAX_BYTES) -> str:
    """Raises OSError as `content` does, and UnicodeDecodeError for what is not UTF-8."""
    return content(path, most).decode("utf-8")


def matches(folder: Path, pattern: str) -> tuple[Path, ...]:
    """Of the names in a folder, sorted; none without the folder. Raises OSError, of which Path.glob says nothing."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except ABSENT:
        return ()
    return tuple(folder / name for name in sorted(names) if fnmatch.fnmatchcase(name, pattern))


def _check(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'no regular file')}", str(path))


_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
