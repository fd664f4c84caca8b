"""The Faces workload: its faults by an injected clock, its settings, and its palette."""

from __future__ import annotations

import subprocess
import sys

import pytest

from demo.faces import palette
from demo.faces.faults import Faults, Injector, from_environment
from tests.workload_api_support import REPOSITORY


class Hand:
    """A clock and a chance that the test sets."""

    def __init__(self) -> None:
        self.time, self.chance = 0.0, 0.5

    def injector(self, faults: Faults) -> Injector:
        return Injector(faults, lambda: self.chance, lambda: self.time)


def test_a_latched_error_clears_after_thirty_quiet_seconds() -> None:
    hand = Hand()
    injector = hand.injector(Faults(error_fraction=60, latch_fraction=60))
    assert injector.judge().status == 599
    hand.chance = 0.99
    for _ in range(3):
        hand.time += 29
        assert injector.judge().status == 599
    hand.time += 31
    assert injector.judge().status == 200


def test_rates_and_fractions() -> None:
    hand = Hand()
    injector = hand.injector(Faults(max_rate=2.0))
    statuses = []
    for _ in range(40):
        hand.time += 0.1
        statuses.append(injector.judge().status)
    assert 8 <= statuses.count(200) <= 10  # four seconds at two a second, and the bucket
    assert hand.injector(Faults(max_rate=0.05)).judge().status == 200
    hand.chance = 0.0
    assert hand.injector(Faults(error_fraction=0)).judge().status == 200
    assert hand.injector(Faults(error_fraction=1)).judge().status == 500
    hand.chance = 0.999
    assert hand.injector(Faults(error_fraction=100)).judge().status == 500
    assert hand.injector(Faults(delays_ms=(1, 2, 3))).delay_seconds() == 0.003


def test_settings_come_from_the_environment() -> None:
    found = from_environment({"DELAY_BUCKETS": "0,50,-1", "ERROR_FRACTION": "120", "LATCH_FRACTION": "", "MAX_RATE": "2.5"})
    assert found == Faults((0, 50, 0), 100, 0, 2.5)
    for bad in ({"DELAY_BUCKETS": "fast"}, {"ERROR_FRACTION": "x"}, {"SMILEY_SERVICE": "smiley:http"}):
        argv = [sys.executable, "-s", "-m", "demo.faces", "face", "--port", "0"]
        ended = subprocess.run(argv, cwd=REPOSITORY, env=bad, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 64
        assert "bad setting" in ended.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grinning", "&#x1F603;"),
        ("u+1f600", "&#x1F600;"),
        ("&#x1F602;", "&#x1F602;"),
        ("😀", "&#x1F600;"),
        ("U+FFFFFF", "&#x1F92E;"),
        ("Grumpy", "&#x1F92E;"),
        ("<", "&#x1F92E;"),
        ("", "&#x1F92E;"),
    ],
)
def test_smileys(text: str, shown: str) -> None:
    assert palette.smiley(text) == shown


def test_colors() -> None:
    assert [palette.color(text) for text in ("blue", "Green", "#a1B2c3", "#12", "mud")] == [
        "#66CCEE",
        "#228833",
        "#a1B2c3",
        "#CCBB44",
        "#CCBB44",
    ]
