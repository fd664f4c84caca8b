"""What both suites of the firewall backends start from: a network of their own, and short forms of the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from harness.rules import Rules, differences
from harness.system.redirect_table import Backend, TableState
from tests import redirect_support as support


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with support.own_network():
        yield


def observe(backend: Backend) -> TableState:
    return asyncio.run(backend.observe())


def replace(backend: Backend, rules: Rules) -> None:
    asyncio.run(backend.replace(rules))


def assert_holds(backend: Backend, rules: Rules) -> None:
    state = observe(backend)
    assert (state.strange, state.on_trial, differences(rules, state.rules)) == ((), False, ())
