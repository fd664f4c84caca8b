"""What the walk-through expects of the page: each expectation where it holds, and where it does not."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.mesh import ROOT


@pytest.fixture(scope="module")
def ask() -> ModuleType:
    spec = importlib.util.spec_from_file_location("playground_ask", ROOT / "deploy/playground/ask.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["playground_ask"] = found  # where its dataclass looks for itself
    spec.loader.exec_module(found)
    return found


def good(smiley: str = "Grinning", color: str = "blue", pod: str = "a", error: str = "") -> tuple[int, str, str, str, str]:
    return 200, pod, smiley, color, error


NO_FACE = (502, "", "", "", "502 could not be asked")
NOT_ASKED = (0, "", "", "", "gaierror: the page itself is not there")
CANARY = [good("HeartEyes")] * 64 + [good()] * 256


@pytest.mark.parametrize(
    ("expectation", "answers", "holds"),
    [
        ("face=none", [NO_FACE], True),
        ("face=none", [NO_FACE, good()], False),
        ("face=none", [NOT_ASKED], False),
        ("face=none", [], False),
        ("smiley=Grinning", [good()], True),
        ("smiley=Grinning", [good(), good("Cursing")], False),
        ("smiley=Grinning", [good(), NO_FACE], False),
        ("smiley=Cursing,Sleeping", [good("Sleeping"), good("Cursing")], True),
        ("smiley=Cursing,Sleeping", [], False),
        ("color=blue+green", [good(), good(color="green")], True),
        ("color=blue+green", [good()], False),
        ("color=green", [good(color="green"), NO_FACE], False),
        ("pod=a+b", [good(), good(pod="b")], True),
        ("pod=a+b", [good(), good(pod="b"), good(pod="c")], False),
        ("pod=a", [good(), good(pod="b")], False),
        ("errors=none", [good()], True),
        ("errors=none", [good(error="smiley: 503")], False),
        ("errors=none", [good(), NO_FACE], False),
        ("share=HeartEyes:20", CANARY, True),
        ("share=HeartEyes:50", CANARY, False),
        ("share=HeartEyes:20", [good("HeartEyes"), good()] * 160, False),
        ("share=HeartEyes:20", [good()] * 320, False),
    ],
)
def test_expectations(ask: ModuleType, expectation: str, answers: list[tuple[int, str, str, str, str]], holds: bool) -> None:
    assert ask.judge(expectation, [ask.Answer(*answer) for answer in answers]) is holds


def test_an_expectation_that_is_none_ends_it(ask: ModuleType) -> None:
    with pytest.raises(SystemExit, match="there is no expectation 'smile=Grinning'"):
        ask.judge("smile=Grinning", [ask.Answer(*good())])


def test_what_came_back_is_counted(ask: ModuleType) -> None:
    told = ask.told([ask.Answer(*answer) for answer in (good(), good(), good(error="smiley: 503"), NO_FACE)])
    assert told == "2 of 4: Grinning on blue by a\n1 of 4: smiley: 503 by a\n1 of 4: 502 could not be asked by nobody"
