"""The order of the tests: what takes longest begins first, or one of the parallel workers would be left with it at the end."""

from __future__ import annotations

import pytest

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
