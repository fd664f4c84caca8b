"""What a test run itself needs: an empty cache of compiled files, a place for it, and what is made once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from tests import cache, components
from tests.test_layout import ALL, ROOT, imports

OURS = {"harness", "controller", "demo", "tests", "bench"}


def libraries() -> list[str]:
    """All that our code and its tests import, and that is installed here."""
    named = {name.split(".")[0] for path in ALL for name in imports(path)} - OURS - sys.stdlib_module_names
    found = [name for name in sorted(named) if importlib.util.find_spec(name) is not None]
    assert {"httpx", "pyroute2", "yaml", "iptc"} <= set(found)
    return sorted(found, key=lambda name: name != "iptc")


def test_each_library_is_imported_with_nothing_compiled(tmp_path: Path) -> None:
    """As on a fresh machine: what the compiler says of somebody else's source must not fail our tests."""
    lines = [f"def test_{name}() -> None:\n    import {name}\n" for name in libraries()]
    (tmp_path / "test_imports.py").write_text("\n\n".join(lines))
    flags = ("-p", "no:xdist", "-p", "no:hypothesispytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))},
        "PYTHONPYCACHEPREFIX": str(tmp_path / "pycache"),
    }
    command = [sys.executable, "-m", "pytest", *flags, str(tmp_path / "test_imports.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_example_has_a_deadline() -> None:
    settings = hypothesis.settings()
    assert settings.deadline is None
    assert hypothesis.HealthCheck.too_slow in settings.suppress_health_check


MAKE = """
import os, pathlib, sys, time
from tests.cache import once, once_a_file
target = pathlib.Path(sys.argv[1])

def make(folder):
    with open(target / "made", "a") as log:
        print("made", file=log)
    time.sleep(0.2)
    (folder / "content").write_text("complete")
    return folder / "content"

assert (once(target / "folder", make) / "content").read_text() == "complete"
assert once_a_file(target / "file", make).read_text() == "complete"
"""


def test_what_several_processes_ask_for_is_made_once(tmp_path: Path) -> None:
    asking = [subprocess.Popen([sys.executable, "-c", MAKE, str(tmp_path)], cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in asking] == [0] * 4
    assert (tmp_path / "made").read_text() == "made\n" * 2, "the folder once, and the file once"


def test_what_could_not_be_made_is_made_by_the_next(tmp_path: Path) -> None:
    def fail(folder: Path) -> Path:
        (folder / "half").write_text("half")
        raise OSError("no space")

    for make in (cache.once, cache.once_a_file):
        with pytest.raises(OSError, match="no space"):
            make(tmp_path / "target", fail)
        assert not (tmp_path / "target").exists()
    assert not list(cache.once(tmp_path / "target", lambda folder: None).iterdir())


# As root it may be used, and would be left behind.
WITHOUT_SYSTEM_CACHE = (
    ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /var/cache && exec "$@"', "sh") if os.geteuid() == 0 else ()
)
PYCACHE = [sys.executable, "-m", "tests.cache"]


def pycache(home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*WITHOUT_SYSTEM_CACHE, *PYCACHE], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )


def test_compiled_files_are_where_nobody_else_can_put_one(tmp_path: Path) -> None:
    place = Path(pycache(tmp_path).stdout.strip())
    assert place == tmp_path / ".cache/meshexp/pycache"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    place.chmod(0o777)
    assert pycache(tmp_path).stdout.strip() == str(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
@pytest.mark.parametrize("part", [".cache/meshexp/pycache", ".cache/meshexp", ".cache", "."])
def test_root_does_not_run_what_somebody_else_has_compiled(tmp_path: Path, part: str) -> None:
    (tmp_path / ".cache/meshexp/pycache").mkdir(parents=True)
    os.chown(tmp_path / part, 65534, 65534)
    assert pycache(tmp_path).stdout.strip() == str(cache.SYSTEM_CACHE / "pycache")


def test_a_link_is_not_followed_to_somebody_elses_folder(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").symlink_to(tmp_path / "theirs")
    assert not cache.is_ours_alone(tmp_path / "ours")
    assert cache.is_ours_alone(tmp_path / "theirs")
    (tmp_path / "theirs" / "inner").mkdir()
    (tmp_path / "theirs").chmod(0o777)
    assert not cache.is_ours_alone(tmp_path / "theirs" / "inner"), "everybody could exchange it"


ON_A_BUSY_MACHINE = """
from pathlib import Path

def test_of_a_busy_machine():
    seen = Path(__file__).with_name("seen")
    was_here = seen.exists()
    seen.touch()
    assert was_here, "no answer"

def test_of_a_sound_machine():
    pass
"""
BROKEN = "\ndef test_broken():\n    assert 1 == 2\n"
SKIPPED_ALONE = """
import pytest

def test_that_skips():
    if Path(__file__).with_name("first").exists():
        pytest.skip("no such program")
    Path(__file__).with_name("first").touch()
    assert 1 == 2
"""
MANY = "import pytest\n@pytest.mark.parametrize('number', range(9))\ndef test_of_many(number):\n    assert 1 == 2\n"
ALONE, TWICE, ONCE = "passed when alone", "failed twice", "failed"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """All that a run needs, without the tests."""
    tests = tmp_path / "tests"
    tests.mkdir()
    for file in (ROOT / "tests/run", *(ROOT / "tests").glob("*.py")):
        shutil.copy(file, tests)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    tmp_path.chmod(0o755)
    return tmp_path


def started(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON", "TEST_"))}
    command = [str(checkout / "tests/run"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=checkout)


@pytest.mark.parametrize(
    ("source", "words", "verdicts"),
    [
        ("", (), [ALONE]),
        (BROKEN, (), [ALONE, TWICE]),
        (SKIPPED_ALONE, (), [ALONE, ONCE]),
        (MANY, (), [ONCE] * 10),
        (BROKEN, ("--exitfirst",), [ONCE]),
    ],
    ids=["one fails among others", "one is broken", "one is skipped alone", "many fail", "it stops early"],
)
def test_what_failed_among_others_is_tried_once_more_and_named_at_the_end(
    checkout: Path, source: str, words: tuple[str, ...], verdicts: list[str]
) -> None:
    (checkout / "tests/test_busy.py").write_text(ON_A_BUSY_MACHINE + source)
    done = started(checkout, "tests/test_busy.py", *words)
    assert done.returncode == (verdicts != [ALONE]), done.stdout + done.stderr
    last = done.stdout.rpartition("== components")[2].splitlines()
    assert [line.split("  ")[0].rstrip() for line in last if "test_busy.py" in line] == verdicts


def test_a_module_that_cannot_be_imported_fails_a_run_that_is_well_otherwise(checkout: Path) -> None:
    (checkout / "tests/test_busy.py").write_text(ON_A_BUSY_MACHINE)
    (checkout / "tests/test_wrong.py").write_text("import there_is_no_such_module\n")
    done = started(checkout, "tests/test_busy.py", "tests/test_wrong.py")
    assert done.returncode == 1 and f"{TWICE}         tests/test_wrong.py: " in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads what others may not")
def test_a_checkout_that_other_users_cannot_read_is_named(checkout: Path) -> None:
    checkout.chmod(0o700)
    done = started(checkout, "tests/test_busy.py")
    assert done.returncode == 77 and "other users cannot read this checkout" in done.stderr


def test_only_the_program_itself_is_the_real_component(tmp_path: Path) -> None:
    real = components.find("nft")
    assert real is not None
    (tmp_path / "nft").write_text("#!/bin/sh\n")
    assert components.started({"ip", str(tmp_path / "nft"), "x=nft", "-nft"}) == set()
    assert components.started({"nft"}) == components.started({real}) == {"nft"}


def test_the_end_of_a_run_names_what_was_started_and_nothing_else() -> None:
    lines = list(components.table({"nft"}))
    assert any(line.startswith("real      nft (") for line in lines)
    assert all(not line.startswith("real") or " nft (" in line for line in lines)
    assert len(lines) == len((*components.IN_NO_REGISTRY, *components.BUILT, *components.INSTALLED))
