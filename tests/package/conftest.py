"""What every package test stands on: the packages of this checkout, an older and a newer version of them, and a Debian."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package import root
from tests.package.debs import NEXT, Debs, install, make_newer
from tests.package.machine import Machine
from tests.package.member import DROP_IN, booted_member, drop_in, make_ready

# `MESHEXP_SUITE=trixie pytest tests/package`: on another Debian, or on Ubuntu's noble. Made by debootstrap as the usual one is.
SUITE = os.environ.get("MESHEXP_SUITE", "bookworm")


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Debs:
    present = root.package(tmp_path_factory)
    folder = root.once_a_run(tmp_path_factory, "newer-deb", lambda folder: make_newer(present, folder))
    return Debs(present, folder / NEXT)


@pytest.fixture(scope="session")
def debian() -> Path:
    """A Debian 12, not to be written to."""
    return root.debian(SUITE)


@pytest.fixture(scope="session")
def installed(debian: Path, debs: Debs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The layers of a machine that has never run, whose image the package was put into; not to be written to."""
    folder = root.once_a_run(tmp_path_factory, f"installed-{SUITE}", lambda folder: install(debs.present, folder, debian))
    return folder / "upper", debian


@pytest.fixture(scope="module")
def booted(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with booted_member(installed) as found:
        yield found


@pytest.fixture
def vm(booted: Machine) -> Iterator[Machine]:
    """One machine for a module: each test finds it ready, and undoes what it writes to /etc."""
    make_ready(booted)
    yield booted
    if booted.file(DROP_IN).exists():
        drop_in(booted, "")
