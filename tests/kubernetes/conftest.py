"""A controller's site on the real API server: its namespace, certificates and processes."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
import yaml

from tests.kubernetes_site import Site
from tests.kubernetes_support import cluster


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    made = Site(cluster(), tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def two_contexts(tmp_path: pathlib.Path) -> str:
    """A kubeconfig whose current context is that of a user without rights, `nobody`; the administrator's is `c`."""
    made = cluster()
    data = yaml.safe_load(pathlib.Path(made.kubeconfig()).read_text())
    certificate, key = made.authority.issue("nobody")
    data["users"].append({"name": "nobody", "user": {"client-certificate": certificate, "client-key": key}})
    data["contexts"].append({"name": "nobody", "context": {"cluster": "c", "user": "nobody"}})
    path = tmp_path / "two.kubeconfig"
    path.write_text(yaml.safe_dump(data | {"current-context": "nobody"}))
    return str(path)
