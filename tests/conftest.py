"""The order of the tests, which of them share a worker, hypothesis, signals, and a note of the real programs that take part."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import components

# Whoever starts the tests in the background of a script has them ignore it, and so would every program that they end by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the other work of the machine than about the code: no example has a deadline.
hypothesis.settings.register_profile("meshexp", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("meshexp")

if components.FOLDER in os.environ:
    components.watch()

# The longest first, or a worker would be left with it at the end.
MESH, CLUSTER, ENGINE = "tests/linkerd/", "tests/kubernetes/", "tests/container/"
LONGEST_FIRST = (
    MESH,
    "tests/package/",
    "tests/neighbors/",
    CLUSTER,
    ENGINE,
    "tests/netns/test_spire",
    "tests/netns/",
    "tests/check/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(
        key=lambda item: next((i for i, prefix in enumerate(LONGEST_FIRST) if item.nodeid.startswith(prefix)), len(LONGEST_FIRST))
    )


def pytest_sessionfinish() -> None:
    if components.FOLDER in os.environ:
        components.write(Path(os.environ[components.FOLDER]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Modules are shared out among the workers; all that share the real mesh, the API server or the engine have one worker."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((one for one in (MESH, CLUSTER, ENGINE) if nodeid.startswith(one)), str(super()._split_scope(nodeid)))

    return Scheduling(config, log)
