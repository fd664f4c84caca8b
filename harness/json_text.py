"""JSON that another machine has written → values, or a ValueError that says what is wrong. Both ends of the wire read by it.

What is too much is found before anything is made of it: a text of a few KiB may hold as many values as it has characters.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

MOST_DEPTH = 32
"""No message of ours is nested deeper than 8."""
MOST_VALUES = 100_000
"""Of an answer about a cluster of thousands of nodes, each with its networks."""
# It matches at every quote, also where the text ends within a string: so no character is looked at twice.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_MARKS = re.compile(r"[\[\]{}]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(text: str | bytes, *, most_values: int = MOST_VALUES, most_depth: int = MOST_DEPTH) -> Any:
    """Raises ValueError for what is no JSON (RFC 8259), for NaN and infinite numbers, for half of a surrogate pair, and for more
    than `most_values` values or `most_depth` levels."""
    if isinstance(text, bytes):
        text = text.decode("utf-8")  # UnicodeDecodeError is a ValueError
    bare = _STRING.sub("", text)
    opened = bare.count("[") + bare.count("{")
    if opened + bare.count(",") > most_values:
        raise ValueError(f"it has more than {most_values} values")
    if opened > most_depth and _depth(bare) > most_depth:
        raise ValueError(f"it is nested deeper than {most_depth} levels")
    try:
        found = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair, which is no character") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def _depth(bare: str) -> int:
    deepest = now = 0
    for mark in _MARKS.findall(bare):
        now += 1 if mark in "[{" else -1
        deepest = max(deepest, now)
    return deepest


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
