"""The tests' folder in the user's cache: what is made once, by one of several processes that want it, and compiled Python."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.system import files

SYSTEM_CACHE = Path("/var/cache/meshexp")  # only root can make it


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshexp"


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, made by the first of several processes that ask for it, from an empty one; the others wait."""
    with _locked(folder) as missing:
        if missing:
            partial = folder.with_name(f"{folder.name}.partial")
            _remove(partial)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


def once_a_file(file: Path, make: Callable[[Path], Path]) -> Path:
    """`file`, in the same way: it is what `make` returns, which gets an empty folder to work in."""
    with _locked(file) as missing:
        if missing:
            with tempfile.TemporaryDirectory(prefix=f"{file.name}.", dir=file.parent) as folder:
                make(Path(folder)).replace(file)
    return file


def _remove(partial: Path) -> None:
    """What a run left that was killed; not what is mounted there: that may be /proc, or the cgroups of this machine."""
    mounted = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in reversed([place for place in mounted if partial in place.parents]):
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    if partial.exists():
        shutil.rmtree(partial)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether it is missing, while no other process makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.open_lock(path.with_name(f"{path.name}.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not path.exists()


def pycache() -> Path:
    """For PYTHONPYCACHEPREFIX: not in the checkout, but not compiled again each time either.

    A program that runs as another user cannot read it, and compiles for itself. PermissionError when no place is only ours.
    """
    for place in (cache(), SYSTEM_CACHE):
        folder = place.resolve() / "pycache"
        with contextlib.suppress(PermissionError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_ours_alone(folder):
                folder.chmod(0o700)
                return folder
    raise PermissionError(f"{cache()} belongs to somebody else: set XDG_CACHE_HOME to a folder of your own")


def is_ours_alone(folder: Path) -> bool:
    """Whether nobody but us and root can put a file there: Python runs the compiled files that it finds."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and all(map(_is_kept_by_owner, folder.parents))


def _is_kept_by_owner(parent: Path) -> bool:
    """Whether nobody else can exchange what is in it."""
    found = parent.stat()
    open_to_all = bool(found.st_mode & stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    return found.st_uid in (0, os.geteuid()) and not open_to_all


if __name__ == "__main__":
    print(pycache())
