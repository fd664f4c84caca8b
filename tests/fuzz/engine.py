"""One reader, fed with inputs that nobody would send: each comes from a seed, so that a run can be repeated."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import signal
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import mutate, shapes

ROOT = Path(__file__).resolve().parents[2]
MOST_CPU_SECONDS = 2.0
"""Of one input. Time of the processor, so that a busy machine is no finding."""
MOST_GROWTH_KIB = 64 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """A reader. `refuses`: the errors that its documentation names; every other one is a finding. `tree`: its inputs are JSON."""

    name: str
    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    refuses: tuple[type[Exception], ...] = ()
    tree: bool = False

    def inputs(self, seed: int, count: int) -> Iterator[bytes]:
        """The first ones are the seeds themselves."""
        source = random.Random(f"{seed} {self.name}")
        trees = [json.loads(text) for text in self.seeds] if self.tree else []
        for number in range(count):
            if number < len(self.seeds):
                yield self.seeds[number]
            elif self.tree and source.random() < 0.8:
                yield shapes.changed(source, trees)
            else:
                yield mutate.changed(source, self.seeds)


@dataclass(frozen=True, slots=True)
class Finding:
    """`place`: the error and the function of ours that it came from; one fault has one place."""

    target: str
    place: str
    what: str
    data: bytes

    @property
    def file(self) -> str:
        """Under found/."""
        return f"{self.target}/{zlib.crc32(self.data):08x}"


class HangError(BaseException):
    """No reader can take it for a fault of its input."""


def _hangs(number: int, frame: object) -> None:
    raise HangError


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Where `judge` is called. In the main thread only."""
    before = signal.signal(signal.SIGVTALRM, _hangs)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def judge(target: Target, data: bytes) -> Finding | None:
    """What is wrong with how it reads `data`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        place, what = _outcome(target, data)
    except HangError as error:  # also one that comes while another error is looked at
        place = f"hang in {_place(error)}"
        what = f"no end within {MOST_CPU_SECONDS:g} s of processor time"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if not place and grown > MOST_GROWTH_KIB:
        place = "memory"
        what = f"{grown >> 10} MiB more than before"
    return Finding(target.name, place, what, data) if place else None


def _outcome(target: Target, data: bytes) -> tuple[str, str]:
    """Place and text of an error that the target does not document; empty without one. Raises HangError."""
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_CPU_SECONDS)
    try:
        target.read(data)
    except target.refuses:
        pass
    except Exception as error:  # noqa: BLE001 — that is what is looked for
        return f"{type(error).__name__} in {_place(error)}", str(error)[:200]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    return "", ""


def _place(error: BaseException) -> str:
    """The innermost function of ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "tests") and ".venv" not in path.parts:
            return f"{path.relative_to(ROOT)}:{frame.name}"
    return "the test"


def fuzz(target: Target, seed: int, count: int) -> dict[str, Finding]:
    """By place, the shortest input of each."""
    found: dict[str, Finding] = {}
    with watched():
        for data in target.inputs(seed, count):
            finding = judge(target, data)
            if finding is not None:
                known = found.get(finding.place)
                if known is None or len(data) < len(known.data):
                    found[finding.place] = finding
    return found
