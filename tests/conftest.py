"""The order of the tests, longest first, or one of the parallel workers would be left with it at the end; and their signals."""

from __future__ import annotations

import signal

import pytest

# Whoever starts the tests in the background of a script has them ignore it, and so would every program that they end by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST_FIRST = (
    "tests/package/",
    "tests/container/",
    "tests/netns/test_spire",
    "tests/linkerd/",
    "tests/netns/",
    "tests/check/",
    "tests/kubernetes/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(
        key=lambda item: next((i for i, prefix in enumerate(LONGEST_FIRST) if item.nodeid.startswith(prefix)), len(LONGEST_FIRST))
    )
