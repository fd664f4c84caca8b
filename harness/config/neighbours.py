"""The files of this machine's other workloads: whether they have changed, and which of them cannot be read."""

from __future__ import annotations

from pathlib import Path

from harness import reading
from harness.config import load
from harness.errors import UnreadableError
from harness.paths import Paths, workloads


def stamp(paths: Paths) -> tuple[tuple[str, int], ...]:
    """Changes with every file that `load.others` reads, also with the rights of one."""
    files, closed = _of_others(paths)
    found = [(str(error.path), -(error.errno or 0)) for error in closed]
    for file in files:
        try:
            found.append((str(file), file.stat().st_ctime_ns))
        except OSError as error:
            found.append((str(file), -(error.errno or 0)))
    return tuple(found)


def unread(paths: Paths) -> tuple[UnreadableError, ...]:
    """Which folders and files of the other workloads cannot be read: what those have for themselves is not all known."""
    files, closed = _of_others(paths)
    return (*closed, *(error for file in files if (error := _refusal(file)) is not None))


def _refusal(file: Path) -> UnreadableError | None:
    try:
        reading.content(file)
    except reading.ABSENT:
        return None
    except OSError as error:
        return UnreadableError(file, error)
    return None


def _of_others(paths: Paths) -> tuple[tuple[Path, ...], tuple[UnreadableError, ...]]:
    """The files of the other workloads of this machine, and which folders cannot be looked into."""
    found = workloads(paths)
    closed = found.errors
    files: list[Path] = []
    for where in found.readable:
        if where.instance == paths.instance:
            continue
        try:
            files += load.files_of(where)
        except UnreadableError as error:
            files.append(where.harness_yaml)
            closed = (*closed, error)
    return tuple(files), closed
