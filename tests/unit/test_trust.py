"""What is wrong with a certificate's time: the one place that says it."""

from __future__ import annotations

import pytest

from harness import trust


@pytest.mark.parametrize(
    ("now", "state"), [(9.9, "is not valid yet"), (10.0, ""), (19.9, ""), (20.0, "has expired"), (99.0, "has expired")]
)
def test_the_state_of_a_certificate(now: float, state: str) -> None:
    assert trust.state_of(10.0, 20.0, now) == state
