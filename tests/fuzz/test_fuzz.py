"""No input makes a reader raise what it does not document, or take time or memory without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import engine
from tests.fuzz.known import KNOWN
from tests.fuzz.targets import TARGETS

COUNT, SEED = 5000, 1
FOUND = Path(__file__).resolve().parent / "found"
KEPT = sorted(FOUND.glob("*/*"))


@pytest.mark.parametrize("name", TARGETS)
def test_what_nobody_would_send(name: str) -> None:
    if name in KNOWN:
        pytest.skip(f"known: {KNOWN[name]}")
    found = engine.fuzz(TARGETS[name], SEED, -(-COUNT // len(TARGETS)))
    assert not found, "\n".join(f"{one.place}: {one.what}: {one.data!r}" for one in found.values())


@pytest.mark.parametrize("path", [path for path in KEPT if path.parent.name not in KNOWN], ids=str)
def test_what_once_failed(path: Path) -> None:
    with engine.watched():
        assert engine.judge(TARGETS[path.parent.name], path.read_bytes()) is None


def test_what_is_known_still_fails() -> None:
    """Otherwise it has been repaired, and leaves the list."""
    for name in KNOWN:
        inputs = [path.read_bytes() for path in KEPT if path.parent.name == name]
        with engine.watched():
            assert any(engine.judge(TARGETS[name], data) for data in inputs), f"take {name} off tests/fuzz/known.py"


def test_the_runner_finds_each_kind_of_fault() -> None:
    """An error that is not documented, a loop without an end, and memory."""

    def read(data: bytes) -> object:
        if data[:1] == b"e":
            raise KeyError("x")
        while data[:1] == b"l":
            pass
        return [bytearray(b"x" * (96 << 20)) for _ in range(data[:1] == b"m")]

    target = engine.Target("own", read, (b"ok", b"e", b"l", b"m"))
    places = {one.place for one in engine.fuzz(target, SEED, 4).values()}
    assert {place.partition(" ")[0] for place in places} == {"KeyError", "hang", "memory"}


def test_a_seed_gives_the_same_inputs_again() -> None:
    for target in TARGETS.values():
        assert list(target.inputs(3, 20)) == list(target.inputs(3, 20))
