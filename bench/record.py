"""One figure."""

from __future__ import annotations

from typing import TypedDict


class Record(TypedDict):
    """`name` is dotted and stable. `ratio` is the value over that of `against`, from the same run."""

    name: str
    value: float
    unit: str
    against: str | None
    ratio: float | None


def record(name: str, value: float, unit: str, against: str | None = None, ratio: float | None = None) -> Record:
    return Record(name=name, value=round(value, 4), unit=unit, against=against, ratio=None if ratio is None else round(ratio, 4))
