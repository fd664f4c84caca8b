"""YAML that somebody has written by hand → values, or one sentence on what is wrong with it: configurations, groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

MOST_VALUES, MOST_DEPTH = 20_000, 40
"""Of one document, aliases counted each time: they make endless values of a short text."""
_LET_THROUGH = (ValueError, TypeError, LookupError, AttributeError)
"""What PyYAML raises of a value that its tag does not fit, such as 2026-02-30, or !!bool x."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader takes the last of two equal keys without a word; a doubled key is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue  # the base class says what is wrong with it
            if name.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name.value!r} is there twice", name.start_mark)
            seen.add(name.value)
        return super().construct_mapping(node, deep)


def document(text: str, *, strict: bool = False) -> Any:
    """The only one in there, None when it is empty. `strict`: no key may be there twice. Raises ValueError."""
    return _bounded(lambda: [yaml.load(text, _StrictLoader if strict else yaml.SafeLoader)])[0]  # noqa: S506 — a SafeLoader


def documents(text: str) -> list[Any]:
    """Raises ValueError."""
    return _bounded(lambda: list(yaml.safe_load_all(text)))


def _bounded(load: Callable[[], list[Any]]) -> list[Any]:
    try:
        found = load()
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"is not YAML: {error.problem}{line}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {error}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except _LET_THROUGH as error:
        raise ValueError(f"has a value that YAML does not allow: {error}") from None
    if not all(map(_is_bounded, found)):
        raise ValueError(f"has more than {MOST_VALUES} values, aliases counted each time, or is deeper than {MOST_DEPTH}")
    return found


def _is_bounded(document: object) -> bool:
    todo: list[tuple[object, int]] = [(document, 0)]
    number = 0
    while todo:
        value, depth = todo.pop()
        number += 1
        if number > MOST_VALUES or depth > MOST_DEPTH:
            return False
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            todo += [(one, depth + 1) for one in inner]
    return True
