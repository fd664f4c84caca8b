"""The patterns of a group's SPIFFE IDs: no text makes the controller work longer than a plain one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import admission
from harness.errors import ConfigError
from tests.controller_support import group

texts = st.text("ab/", max_size=8)


@given(st.text("ab*/", max_size=8), texts)
def test_a_pattern_matches_as_the_regular_expression_would(pattern: str, text: str) -> None:
    expression = "[^/]*".join(re.escape(part) for part in pattern.split("*"))
    assert admission.matches(pattern, text) == bool(re.fullmatch(expression, text))


def test_a_pattern_of_stars_costs_no_more_than_a_plain_one() -> None:
    """As a regular expression each of these takes longer than the sun burns."""
    for stars in ("*a" * 900 + "*b", "*" * 2000 + "b", "a*" * 900 + "b*"):
        assert not admission.matches(f"spiffe://td/{stars}", "spiffe://td/" + "a" * 2000)


def test_patterns_have_a_bound() -> None:
    with pytest.raises(ConfigError) as caught:
        group(admission={"spiffeIDs": ["spiffe://td/" + "a" * 2048, *["spiffe://td/a"] * 64]})
    assert {fault.path for fault in caught.value.faults} == {"spec.admission.spiffeIDs", "spec.admission.spiffeIDs[0]"}
