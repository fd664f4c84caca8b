"""A controller's site on the real API server: its namespace, certificates and processes."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.kubernetes_site import Site
from tests.kubernetes_support import cluster


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    made = Site(cluster(), tmp_path)
    try:
        yield made
    finally:
        made.close()
