"""The versions of linkerd2-proxy on this machine, side by side, and which of them is in use.

    2.366.0/linkerd2-proxy     the binary, 0755
    2.366.0/origin.json        where it came from
    current -> 2.366.0         what the daemon starts
    previous -> 2.331.0        what `rollback` goes back to

A version is put together in a folder of another name and appears in one step. What a killed process left there, the next one
sweeps.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import proxy_release
from harness.errors import PermissionError_, TemporaryError, UnavailableError, UnreadableError, UsageError
from harness.proxy_release import Release
from harness.system import files

BINARY = "linkerd2-proxy"
LOCK_SECONDS = 10.0  # a change of links takes milliseconds
_STAGE, _REMOVED = ".install-", ".removed-"
_CURRENT, _PREVIOUS, _PENDING = "current", "previous", ".previous"


@dataclass(frozen=True, slots=True)
class Installed:
    """`origin`: the file or image it came from. `sha256`: of the binary, as it was installed."""

    release: Release
    current: bool
    previous: bool
    origin: str
    sha256: str


class Store:
    def __init__(self, root: Path) -> None:
        self._root = root

    def binary(self, release: Release) -> Path:
        return self._root / str(release) / BINARY

    def in_use(self) -> Path | None:
        """The binary to start, by its version's own path: another one after `use`, so that a daemon sees the change."""
        release = self._target(_CURRENT)
        return self.binary(release) if release is not None else None

    def installed(self) -> tuple[Installed, ...]:
        """The oldest first."""
        current, previous = self._target(_CURRENT), self._target(_PREVIOUS)
        found = []
        for release in self._releases():
            origin = files.read_json(self._root / str(release) / "origin.json")
            marks = release == current, release == previous
            found.append(Installed(release, *marks, str(origin.get("from", "")), str(origin.get("sha256", ""))))
        return tuple(found)

    @contextlib.contextmanager
    def stage(self) -> Iterator[Path]:
        """A folder of ours alone to put a new version together in; gone afterwards, unless `commit` has moved it to its place."""
        with _translated(self._root):
            self._make_root()
            with self._lock("install", 0.0, "another `meshexp proxy install` is under way"):
                self._sweep(_STAGE)
                folder = Path(tempfile.mkdtemp(prefix=_STAGE, dir=self._root))
                try:
                    yield folder
                finally:
                    shutil.rmtree(folder, ignore_errors=True)

    def commit(self, folder: Path, release: Release, origin: str) -> bool:
        """Makes `folder`'s binary an installed version; the first one is also used. False if it was there already."""
        binary = folder / BINARY
        with binary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.write_json(folder / "origin.json", {"from": origin, "sha256": digest}, mode=0o644)
        for path in (binary, folder / "origin.json", folder):
            files.sync(path)
        with self._changing():
            there = next((entry for entry in self.installed() if entry.release == release), None)
            if there is not None and there.sha256 != digest:
                hint = f"`meshexp proxy remove {release}` first, when it is not in use"
                raise UnavailableError(f"another build of {release} is installed, from {there.origin}", hint)
            if there is None:
                folder.rename(self._root / str(release))
                files.sync(self._root)
            if self._target(_CURRENT) is None:
                self._point(_CURRENT, release)
        return there is None

    def use(self, release: Release) -> None:
        with self._changing():
            self._use(release)

    def rollback(self) -> Release:
        """Back to the version that was used before; twice is back again."""
        with self._changing():
            previous = self._target(_PREVIOUS)
            if previous is None:
                raise UnavailableError("there is no version that was used before", "`meshexp proxy list` shows what is installed")
            self._use(previous)
            return previous

    def remove(self, release: Release) -> None:
        with self._changing():
            if release not in self._releases():
                raise _missing(release)
            if release == self._target(_CURRENT):
                raise UsageError(f"{release} is in use", "use another version first: `meshexp proxy use VERSION`")
            if release == self._target(_PREVIOUS):
                (self._root / _PREVIOUS).unlink()
            (self._root / str(release)).rename(self._root / f"{_REMOVED}{release}")
            self._sweep(_REMOVED)

    def _use(self, release: Release) -> None:
        current = self._target(_CURRENT)
        if release not in self._releases():
            raise _missing(release)
        if release == current:
            return
        # Three steps, of which the second decides; `_recover` ends or undoes the others.
        if current is not None:
            self._point(_PENDING, current)
        self._point(_CURRENT, release)
        self._recover()

    def _recover(self) -> None:
        pending = self._root / _PENDING
        if pending.is_symlink():
            if self._target(_PENDING) == self._target(_CURRENT):
                pending.unlink()
            else:
                pending.rename(self._root / _PREVIOUS)
            files.sync(self._root)

    def _point(self, name: str, release: Release) -> None:
        fresh = self._root / f".new{name}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(str(release))
        fresh.rename(self._root / name)
        files.sync(self._root)

    def _target(self, name: str) -> Release | None:
        try:
            release = proxy_release.parse(str((self._root / name).readlink()))
            return release if self.binary(release).is_file() else None
        except PermissionError as error:
            raise UnreadableError(self._root / name, error) from None
        except (OSError, ValueError):
            return None  # not there, or no link

    def _releases(self) -> tuple[Release, ...]:
        found = []
        for path in self._root.iterdir() if self._root.is_dir() else ():
            with contextlib.suppress(ValueError):
                release = proxy_release.parse(path.name)
                if path.name == str(release) and self.binary(release).is_file():
                    found.append(release)
        return tuple(sorted(found))

    def _make_root(self) -> None:
        for folder in (self._root.parent, self._root):
            if not folder.is_dir():
                folder.mkdir(parents=True)
                folder.chmod(0o755)  # the proxy's user reaches its binary, whatever our umask
            status = folder.stat()
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                hint = f"chown root {folder} && chmod go-w {folder}"
                raise PermissionError_(f"{folder} can be written by others than root; no program is kept there", hint)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Held for an instant, so that `rollback` never waits for a download."""
        with _translated(self._root):
            self._make_root()
            with self._lock("change", LOCK_SECONDS, "another `meshexp proxy` command is at work"):
                self._recover()
                self._sweep(_REMOVED)
                yield

    @contextlib.contextmanager
    def _lock(self, name: str, seconds: float, refusal: str) -> Iterator[None]:
        deadline = time.monotonic() + seconds
        with files.open_lock(self._root / f".{name}.lock") as file:
            while True:
                try:
                    files.take(file.fileno())
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise TemporaryError(refusal, "try again when it has ended") from None
                    time.sleep(0.02)
            yield

    def _sweep(self, prefix: str) -> None:
        for folder in self._root.glob(f"{prefix}*"):
            shutil.rmtree(folder)


def open_to_all(folder: Path) -> None:
    """Lets every user run a staged binary; not before it is written whole, so that nobody else can have it open for writing."""
    (folder / BINARY).chmod(0o755)
    folder.chmod(0o755)


def _missing(release: Release) -> UnavailableError:
    return UnavailableError(f"{release} is not installed", "`meshexp proxy list` shows what is")


@contextlib.contextmanager
def _translated(root: Path) -> Iterator[None]:
    """A full disk, a read-only file system and the like."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"{error.filename or root}: {error.strerror or error}", "nothing was changed") from None
