"""Machines with neighbors: booted from one Debian that has all of them, each with a layer of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.neighbors import root as neighbors
from tests.package import root
from tests.package.conftest import SUITE, debs  # noqa: F401 (a fixture)
from tests.package.debs import Debs, install


@pytest.fixture(scope="session")
def installed(debs: Debs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:  # noqa: F811
    """The layers of a machine that has the package too, and has never run; not to be written to."""
    layers = neighbors.layers(SUITE)
    folder = root.once_a_run(tmp_path_factory, f"neighbors-{SUITE}", lambda folder: install(debs.present, folder, *layers))
    return folder / "upper", *layers
