"""What every package test stands on: the packages of this checkout, an older and a newer version of them, and a Debian."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import __version__
from tests.package import root
from tests.package.root import sh

# `MESHEXP_SUITE=trixie pytest tests/package`: on another Debian, or on Ubuntu's noble. Made by debootstrap as the usual one is.
SUITE = os.environ.get("MESHEXP_SUITE", "bookworm")


@dataclass(frozen=True, slots=True)
class Debs:
    """`newer` has other code, and another conffile."""

    present: Path
    newer: Path


NEWER, NEXT = f"{__version__}+next", "meshexp-harness-next.deb"


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Debs:
    present = root.package(tmp_path_factory)
    folder = root.once_a_run(tmp_path_factory, "newer-deb", lambda folder: make_newer(present, folder))
    return Debs(present, folder / NEXT)


def make_newer(present: Path, folder: Path) -> None:
    tree = folder / "tree"
    sh("dpkg-deb", "--raw-extract", str(present), str(tree))
    _edit(tree / "DEBIAN/control", r"^Version: .*$", f"Version: {NEWER}")
    _edit(tree / "usr/lib/meshexp-harness/harness/__init__.py", r'__version__ = ".*"', f'__version__ = "{NEWER}"')
    _edit(tree / "etc/meshexp/harness.yaml", r"\A", "## This is the next version's.\n")
    (tree / "DEBIAN/md5sums").unlink()
    sh("dpkg-deb", "--build", "-Znone", "--root-owner-group", str(tree), str(folder / NEXT))


def _edit(path: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, path.read_text(), count=1, flags=re.MULTILINE)
    assert count, f"{path} has nothing like {pattern}"
    path.write_text(text)


@pytest.fixture(scope="session")
def debian() -> Path:
    """A Debian 12, not to be written to."""
    return root.debian(SUITE)


@pytest.fixture(scope="session")
def installed(debian: Path, debs: Debs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The layers of a machine that has never run, whose image the package was put into; not to be written to."""
    folder = root.once_a_run(tmp_path_factory, f"installed-{SUITE}", lambda folder: install(debs.present, debian, folder))
    return folder / "upper", debian


def install(deb: Path, debian: Path, folder: Path) -> None:
    """What is written to `debian` lands in `folder`/upper."""
    with root.written_to(folder, debian) as tree:
        shutil.copy(deb, tree / "opt/package.deb")
        sh("unshare", "--net", "--mount", "chroot", str(tree), "dpkg", "--force-unsafe-io", "--install", "/opt/package.deb")
