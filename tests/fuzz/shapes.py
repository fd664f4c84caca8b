"""JSON that differs from right one in its shape: another type, a field fewer, a value in another's place."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

_ROUNDS = (1, 1, 1, 2, 3, 5)
_TEXTS = (
    *("", " ", "\0", "a\nb", "\ud800", "\x1b]0;x\x07", "é", "²", "x" * 64, "x" * 300, "a..b", "-", "--x", "*", "%s", "@"),
    *("1.2.3.4", "999.1.1.1", "::", "::ffff:1.2.3.4", "fe80::1%1", "0.0.0.0/0", "::/0", "10.0.0.1/8", "1.2.3.4:0", "[::]:99999"),
    *("spiffe://", "spiffe://a/..", "true", "null", "1e999", "9" * 5000, "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+14:00"),
    *("/etc/passwd", "../..", "*a*a*a*a*a*a*a*a*b", "com", "a b", "$(id)"),
)

_DEEP, _DEEP_KEYS = "@lists@", "@mappings@"
_NESTED = {_DEEP: "[" * 900 + "]" * 900, _DEEP_KEYS: '{"a":' * 900 + "0" + "}" * 900}
"""Of so many levels that json reads them, and what walks over them does not. Only in the text: Python cannot copy them."""


def _odd(source: random.Random) -> Any:
    kind = source.randrange(4)
    if kind == 0:
        return source.choice(_TEXTS)
    if kind == 1:
        return source.choice((0, 1, -1, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, 1e308, float("inf"), float("nan"), -0.0))
    if kind == 2:
        return source.choice((None, True, False, [], {}, [[]], [None], {"": None}, {"set": []}, {"range": [1]}))
    return source.choice((_DEEP, _DEEP_KEYS, [["x"]], {"a": {"a": 0}}))


def changed(source: random.Random, trees: Sequence[Any]) -> bytes:
    """One of `trees` with some changes, as JSON."""
    root = {"": copy.deepcopy(source.choice(trees))}
    for _ in range(source.choice(_ROUNDS)):
        places = list(_places(root))
        if places:
            holder, key = source.choice(places)
            source.choice(_CHANGES)(source, holder, key, places)
    text = json.dumps(root.get(""))
    for name, nested in _NESTED.items():
        text = text.replace(f'"{name}"', nested, 1)
    return text.encode()


_Place = tuple[Any, Any]
_Change = Callable[[random.Random, Any, Any, Sequence[_Place]], None]


def _places(root: Any) -> Any:
    """Each value as its holder and its key there."""
    todo = [root]
    while todo:
        holder = todo.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            if isinstance(holder[key], dict | list):
                todo.append(holder[key])


def _replace(source: random.Random, holder: Any, key: Any, places: Sequence[_Place]) -> None:
    holder[key] = _odd(source)


def _remove(source: random.Random, holder: Any, key: Any, places: Sequence[_Place]) -> None:
    del holder[key]


def _wrap(source: random.Random, holder: Any, key: Any, places: Sequence[_Place]) -> None:
    holder[key] = source.choice(([holder[key]], {"a": holder[key]}, [holder[key]] * 3))


def _swap(source: random.Random, holder: Any, key: Any, places: Sequence[_Place]) -> None:
    other, where = source.choice(places)
    holder[key] = copy.deepcopy(other[where])


def _add(source: random.Random, holder: Any, key: Any, places: Sequence[_Place]) -> None:
    """Another entry: as it is there, or an odd one."""
    value = copy.deepcopy(holder[key]) if source.random() < 0.5 else _odd(source)
    if isinstance(holder, list):
        holder.insert(0, value)
    else:
        holder[source.choice(_TEXTS)] = value


def _many(source: random.Random, holder: Any, key: Any, places: Sequence[_Place]) -> None:
    if isinstance(holder, list):
        holder.extend([holder[key]] * source.choice((2, 20, 1000)))


def _text(source: random.Random, holder: Any, key: Any, places: Sequence[_Place]) -> None:
    """Another text within the one that is there."""
    value = holder[key]
    if isinstance(value, str):
        at = source.randrange(len(value) + 1)
        holder[key] = value[:at] + source.choice(_TEXTS) + value[at + source.choice((0, 1, 5)) :]


_CHANGES: tuple[_Change, ...] = (_replace, _replace, _replace, _remove, _wrap, _swap, _add, _many, _text, _text)
