"""YAML that somebody has written by hand → values, or one sentence on what is wrong with it: configurations, groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
MOST_VALUES, MOST_DEPTH = 20_000, 40
"""Of one document, aliases counted each time: they make endless values of a short text."""
MOST_DIGITS = 100
"""Of a number. PyYAML takes minutes for a long one with colons, which it reads to the base 60."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_LET_THROUGH = (ValueError, TypeError, LookupError, AttributeError)
"""What PyYAML raises of a value that its tag does not fit, such as 2026-02-30, or !!bool x."""


class _TooMuch(Exception):
    pass


class _Loader(yaml.SafeLoader):
    """Stops where a document has too much, and not only after all of it was read."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._nodes += 1
        if self._depth > MOST_DEPTH + 2 or self._nodes > 2 * MOST_VALUES:  # the keys are nodes, too
            raise _TooMuch
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and node.tag in _NUMBERS and len(node.value) > MOST_DIGITS:
            raise ValueError(f"a number of more than {MOST_DIGITS} digits")
        return node


class _StrictLoader(_Loader):
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
    return _in_words(lambda: _one(_StrictLoader(text) if strict else _Loader(text)))


def documents(text: str) -> list[Any]:
    """Raises ValueError."""
    return _in_words(lambda: list(_each(_Loader(text))))


def _in_words(load: Callable[[], T]) -> T:
    try:
        return load()
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"is not YAML: {error.problem}{line}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {error}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except _TooMuch:
        text = f"has more than {MOST_VALUES} values, aliases counted each time, or is deeper than {MOST_DEPTH}"
        raise ValueError(text) from None
    except _LET_THROUGH as error:
        raise ValueError(f"has a value that YAML does not allow: {error}") from None


def _one(loader: _Loader) -> Any:
    return _made(loader, loader.get_single_node())


def _each(loader: _Loader) -> Iterator[Any]:
    while loader.check_node():
        yield _made(loader, loader.get_node())


def _made(loader: _Loader, node: yaml.Node | None) -> Any:
    """Bounded before any value is made: a key << copies what it names, and so makes of a short text more than memory holds."""
    if node is None:
        return None
    if not _is_bounded(node):
        raise _TooMuch
    return loader.construct_document(node)


def _is_bounded(document: yaml.Node) -> bool:
    todo = [(document, 0)]
    number = 0
    while todo:
        node, depth = todo.pop()
        number += 1
        if number > MOST_VALUES or depth > MOST_DEPTH:
            return False
        todo += [(inner, depth + 1) for inner in _inner(node)]
    return True


def _inner(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                yield key
            yield value
