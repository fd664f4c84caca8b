"""`python3 -m bench`: what it understands, and which figures it keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import RESULT, USAGE, write
from bench.record import record
from tests.test_layout import ROOT


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
    )


def content() -> str | None:
    return RESULT.read_text() if RESULT.exists() else None


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_all_and_measures_nothing(flag: str) -> None:
    before = content()
    done = bench(flag)
    assert (done.returncode, done.stderr) == (0, "")
    for module in (ROOT / "bench").glob("[a-z]*.py"):
        assert module.stem == "record" or module.stem in done.stdout
    assert content() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("contoller",), 'there is no benchmark "contoller". Did you mean controller?'),
        (("check", "xyzzy"), 'there is no benchmark "xyzzy". There are address, check, '),
        (("record",), 'there is no benchmark "record".'),
        (("--only", "check"), "unrecognized arguments: --only"),
    ],
)
def test_what_it_does_not_know_is_an_error_and_measures_nothing(words: tuple[str, ...], said: str) -> None:
    before = content()
    done = bench(*words)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert said in done.stderr and "measuring" not in done.stderr
    assert content() == before


def figures(path: Path) -> dict[str, Any]:
    return {found["name"]: found["value"] for found in json.loads(path.read_text())}


def test_a_run_of_some_keeps_the_figures_of_the_others(tmp_path: Path) -> None:
    result = tmp_path / "build" / "bench.json"
    write([record("a", 1, "s"), record("b", 2, "s")], result, keep=False)
    write([record("b", 3, "s"), record("c", 4, "s")], result, keep=True)
    assert figures(result) == {"a": 1, "b": 3, "c": 4}
    assert all(found["run"] for found in json.loads(result.read_text()))
    write([record("b", 5, "s")], result, keep=False)
    assert figures(result) == {"b": 5}, "a whole run says all"
    write([], result, keep=False)
    assert figures(result) == {"b": 5}, "nothing was measured"
    assert [path.name for path in result.parent.iterdir()] == ["bench.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '[{"value": 1}]', "null"])
def test_an_unreadable_file_is_replaced(tmp_path: Path, text: str) -> None:
    result = tmp_path / "bench.json"
    result.write_text(text)
    write([record("a", 1, "s")], result, keep=True)
    assert figures(result) == {"a": 1}
