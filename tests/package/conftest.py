"""What every package test stands on: the packages of this checkout, an older and a newer version of them, and a Debian."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import __version__
from tests.mesh import ROOT
from tests.package.root import sh, unpacked


@dataclass(frozen=True, slots=True)
class Debs:
    """`newer` has other code, and another conffile."""

    present: Path
    newer: Path


NEWER = f"{__version__}+next"


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Debs:
    sh(str(ROOT / "packaging/deb/build"))
    folder = tmp_path_factory.mktemp("debs")
    present = folder / f"meshexp-harness_{__version__}_all.deb"
    shutil.copy(ROOT / "dist" / present.name, present)
    tree, newer = folder / "tree", folder / "meshexp-harness-next.deb"
    sh("dpkg-deb", "--raw-extract", str(present), str(tree))
    _edit(tree / "DEBIAN/control", r"^Version: .*$", f"Version: {NEWER}")
    _edit(tree / "usr/lib/meshexp-harness/harness/__init__.py", r'__version__ = ".*"', f'__version__ = "{NEWER}"')
    _edit(tree / "etc/meshexp/harness.yaml", r"\A", "## This is the next version's.\n")
    (tree / "DEBIAN/md5sums").unlink()
    sh("dpkg-deb", "--build", "--root-owner-group", str(tree), str(newer))
    return Debs(present, newer)


def _edit(path: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, path.read_text(), count=1, flags=re.MULTILINE)
    assert count, f"{path} has nothing like {pattern}"
    path.write_text(text)


@pytest.fixture(scope="session")
def debian() -> Iterator[Path]:
    """An unpacked Debian 12, not to be written to."""
    with unpacked("bookworm") as root:
        yield root
