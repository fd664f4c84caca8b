"""SPIRE's programs out of a release archive."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from harness.errors import UnavailableError
from harness.system import spire_archive

PROGRAM = b"#!/bin/sh\nexit 0\n"


def archive(folder: Path, **members: bytes) -> Path:
    path = folder / "spire-1.2.3-linux-amd64-musl.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name.replace("__", "/").replace("_", "-"))
            entry.size, entry.mode = len(content), 0o700
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_two_programs_and_nothing_else(tmp_path: Path) -> None:
    members = {"spire-1.2.3__bin__spire_server": PROGRAM, "spire-1.2.3__bin__spire_agent": PROGRAM, "spire-1.2.3__LICENSE": b"x"}
    made = spire_archive.install(archive(tmp_path, **members), tmp_path / "bin")
    assert [path.name for path in made] == ["spire-server", "spire-agent"]
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "bin").iterdir()} == dict.fromkeys(
        ("spire-server", "spire-agent"), 0o755
    )


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"x__bin__spire_server": PROGRAM}, "no bin/spire-agent"),
        ({"x__bin__spire_server": PROGRAM, "x__bin__spire_agent": b"\x7fELF" + bytes(60)}, "architecture"),
    ],
)
def test_half_of_it_is_nothing(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    with pytest.raises(UnavailableError, match=words):
        spire_archive.install(archive(tmp_path, **members), tmp_path / "bin")
    assert list((tmp_path / "bin").iterdir()) == []


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("none")
    with pytest.raises(UnavailableError, match="cannot be installed"):
        spire_archive.install(tmp_path / "x", tmp_path / "bin")
    with pytest.raises(UnavailableError, match="cannot be installed"):
        spire_archive.install(tmp_path / "nowhere", tmp_path / "bin")
