"""What is made once is made after a run that was killed, too, and nothing that was mounted there is removed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cache import once
from tests.package.root import ALONE, sh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def mounted(place: Path) -> bool:
    return f" {place} " in Path("/proc/self/mounts").read_text()


def test_what_a_killed_run_left_mounted_is_unmounted_and_kept(tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "file").write_text("of this machine")
    place = tmp_path / "made.partial" / "root" / "proc"
    place.mkdir(parents=True)
    (place.parent / "file").write_text("of the run that was killed")
    subprocess.run(["mount", "--bind", str(others), str(place)], check=True)
    try:
        made = once(tmp_path / "made", lambda folder: (folder / "new").write_text(""))
    finally:
        if mounted(place):
            subprocess.run(["umount", "--lazy", str(place)], check=True)
    assert [path.name for path in made.iterdir()] == ["new"]
    assert (others / "file").read_text() == "of this machine"


def test_mounts_and_processes_end_with_who_started_them(tmp_path: Path) -> None:
    """As debootstrap's: it is killed with the tests, and unmounts nothing then."""
    script = f"mount -t tmpfs none {tmp_path}; touch {tmp_path}/inside; (sleep 3600 & echo $!); kill -9 $$"
    sh(*ALONE, "sh", "-c", script, check=False)
    assert not mounted(tmp_path) and list(tmp_path.iterdir()) == []
