"""The package of this checkout and a newer one, and a Debian whose image the package was put into."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from harness import __version__
from tests.package import root
from tests.package.root import sh

NEWER, NEXT = f"{__version__}+next", "meshexp-harness-next.deb"


@dataclass(frozen=True, slots=True)
class Debs:
    """`newer` has other code, and another conffile."""

    present: Path
    newer: Path


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


def install(deb: Path, folder: Path, *layers: Path) -> None:
    """What is written to the layers lands in `folder`/upper."""
    with root.written_to(folder, *layers) as tree:
        shutil.copy(deb, tree / "opt/package.deb")
        sh("unshare", "--net", "--mount", "chroot", str(tree), "dpkg", "--force-unsafe-io", "--install", "/opt/package.deb")
