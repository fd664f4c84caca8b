"""What `./setup` and tests/bare say before they do anything, and who may run them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.open_folder import open_folder
from tests.test_layout import ROOT

WORDS = ("demo", "test", "dev", "package", "neighbours")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


def run(*command: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{path}:{os.environ['PATH']}" if path else "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=60)


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_names_every_word(flag: str) -> None:
    done = run(ROOT / "setup", flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n{word} " in done.stdout for word in WORDS)
    assert "set -" not in done.stdout


@pytest.mark.parametrize("words", [(), ("tset",), ("demo", "tset"), ("--fast",), ("",)])
def test_what_it_does_not_know_is_an_error_and_nothing_is_done(words: tuple[str, ...]) -> None:
    done = run(ROOT / "setup", *words)
    assert (done.returncode, done.stdout) == (64, "")
    assert all(word in done.stderr for word in (*WORDS, *words))


def test_what_the_package_is_built_with_is_installed_by_its_word() -> None:
    """Else `make deb` fails where nothing else has brought it."""
    installed = run("bash", "-c", 'source ./setup; echo "${package[@]}"').stdout.split()
    control = (ROOT / "packaging/deb/debian/control").read_text()
    source = control.partition("\nPackage:")[0]
    needed = re.findall(r"^ (python3-[\w-]+)", source, re.MULTILINE)
    assert "python3-yaml" in needed and set(needed) <= set(installed)


@pytest.fixture
def script() -> Iterator[Path]:
    """A copy that every user can reach, unlike what is in pytest's folder, and that asks for a package that no machine has."""
    with_package = (ROOT / "setup").read_text().replace("demo=(python3 ", "demo=(meshexp-no-such-package python3 ", 1)
    with open_folder() as folder:
        copy = folder / "setup"
        copy.write_text(with_package)
        copy.chmod(0o755)
        yield copy


def as_user(script: Path, sudo: str) -> subprocess.CompletedProcess[str]:
    """In a mount namespace whose only sudo is the given program."""
    folder = script.parent / "bin"
    folder.mkdir()
    if sudo:
        (folder / "sudo").write_text(sudo)
        (folder / "sudo").chmod(0o755)
    hide = 'for place in /usr/bin/sudo /bin/sudo; do [ ! -e $place ] || mount --bind /dev/null $place; done; exec "$@"'
    return run("unshare", "--mount", "sh", "-c", hide, "sh", *NOBODY, script, "demo", path=folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_becomes_root_by_sudo(script: Path) -> None:
    done = as_user(script, '#!/bin/sh\necho "as root: $*"\n')
    assert (done.returncode, done.stdout) == (0, "as root: -- ./setup demo\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_sudo_is_told(script: Path) -> None:
    done = as_user(script, "")
    assert (done.returncode, done.stdout) == (77, "")
    assert "root" in done.stderr and "sudo" in done.stderr


def test_bare_says_what_it_does() -> None:
    done = run(ROOT / "tests" / "bare", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--cache FOLDER" in done.stdout and "set -" not in done.stdout


@pytest.mark.parametrize("words", [("foo",), ("demo",), ("--hlep",), ("-x",), ("tests/unit", "foo"), ("tests/no.py::x",)])
def test_bare_begins_nothing_at_a_word_that_it_does_not_know(words: tuple[str, ...]) -> None:
    done = run(ROOT / "tests" / "bare", *words)
    assert (done.returncode, done.stdout) == (64, "")
    assert f'"{words[-1]}"' in done.stderr


@pytest.mark.parametrize("words", [("--cache",), ("--cache", "/nonexistent"), ("--run",)])
def test_bare_wants_what_its_options_need(words: tuple[str, ...]) -> None:
    done = run(ROOT / "tests" / "bare", *words)
    assert (done.returncode, done.stdout) == (64, "")
    assert words[0] in done.stderr
