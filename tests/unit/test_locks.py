"""Only its owner can hold a lock of ours: any other user could keep the daemon, a set-up or a build from starting."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import TemporaryError, UnavailableError
from harness.system import files
from harness.system.proxy_store import Store
from tests import cache
from tests.mesh import ROOT
from tests.open_folder import open_folder

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
SCRIPTS = {"setup", "packaging/lock"}
MADE = {".git", ".venv", "build", "dist", ".mypy_cache", ".ruff_cache", ".hypothesis", ".pytest_cache"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


def of_the_daemon(folder: Path) -> Path:
    with files.lock(folder / "harness.lock"):
        return folder / "harness.lock"


def of_installed_proxies(folder: Path) -> Path:
    with pytest.raises(UnavailableError):
        Store(folder).rollback()
    return folder / ".change.lock"


def of_an_installation(folder: Path) -> Path:
    with Store(folder).stage():
        return folder / ".install.lock"


def of_what_tests_make_once(folder: Path) -> Path:
    cache.once(folder / "made", lambda _: None)
    return folder / "made.lock"


def of_the_builds(folder: Path) -> Path:
    subprocess.run(["bash", "-euc", f". {ROOT}/packaging/lock"], check=True, cwd=folder)
    return folder / "build" / ".lock"


def of_set_up(folder: Path) -> Path:
    subprocess.run(["bash", "-c", f". {ROOT}/setup; close_to_others {folder}/lock"], check=True)
    return folder / "lock"


MAKERS = (of_the_daemon, of_installed_proxies, of_an_installation, of_what_tests_make_once, of_the_builds, of_set_up)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_another_user_cannot_open_it(make: Callable[[Path], Path], folder: Path) -> None:
    path = make(folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)  # as an older release has left it
    shutil.rmtree(folder / "made", ignore_errors=True)  # so that it is made again
    assert make(folder) == path
    held = subprocess.run([*NOBODY, "flock", "--nonblock", path, "true"], capture_output=True, text=True, check=False)
    assert held.returncode == 66 and "Permission denied" in held.stderr


def test_another_user_still_learns_whether_it_is_held(folder: Path) -> None:
    asking = "import sys; from pathlib import Path; from harness.system import files; print(files.is_locked(Path(sys.argv[1])))"
    source = folder / "source"
    shutil.copytree(ROOT / "harness", source / "harness", ignore=shutil.ignore_patterns("__pycache__"))

    def told() -> str:
        command = (*NOBODY, "/usr/bin/python3", "-B", "-c", asking, str(folder / "harness.lock"))
        return str(subprocess.run(command, capture_output=True, text=True, check=True, cwd=source).stdout).strip()

    with files.lock(folder / "harness.lock"):
        assert told() == "True"
    assert told() == "False"


def test_who_asks_never_holds_it(folder: Path) -> None:
    """Otherwise a daemon that starts at that moment would take the question for another daemon."""
    path = folder / "harness.lock"
    with files.lock(path):
        pass
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            assert files.is_locked(path) in (True, False)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        for _ in range(300):
            with files.lock(path):
                pass
    finally:
        stop.set()
        for thread in asking:
            thread.join()


@pytest.mark.parametrize("kind", ["flock", "open file"])
def test_a_process_with_one_of_the_two_locks_holds_it(folder: Path, kind: str) -> None:
    """An earlier release takes only the first."""
    path = folder / "harness.lock"
    with files.open_lock(path) as file:
        if kind == "flock":
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, files._whole_file())
        assert files.is_locked(path)
        with pytest.raises(TemporaryError), files.lock(path):
            pass
    assert not files.is_locked(path)
    with files.lock(path):
        held = subprocess.run(["flock", "--nonblock", path, "true"], check=False)
        assert held.returncode == 1, "an earlier release finds it held"


def test_a_pipe_in_its_place_is_a_lock_too(folder: Path) -> None:
    path = folder / "harness.lock"
    os.mkfifo(path)
    with files.lock(path):
        assert files.is_locked(path)
        with pytest.raises(TemporaryError), files.lock(path):
            pass
    assert not files.is_locked(path)


def test_every_script_that_locks_is_among_these() -> None:
    found = set()
    kept = [path for path in ROOT.iterdir() if path.name not in MADE and not path.is_symlink()]
    for path in (inner for top in kept for inner in (top, *top.rglob("*")) if inner.is_file()):
        if path.suffix not in {".py", ".pyc", ".md"} and b"flock" in path.read_bytes():
            found.add(str(path.relative_to(ROOT)))
    assert found == SCRIPTS
