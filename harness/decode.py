"""Frozen dataclasses from and to YAML/JSON values, with every fault at once and its dotted path.

Why not a library: pydantic is 1.10 in Debian 12 and 2.x elsewhere, with different APIs, and cattrs gained collected error paths
only after Debian's 22.2. Both sides of the wire, the configuration and the manifests need just what is here.

What is read may be hostile: a list or a mapping has a bound, the reader stops after MOST_FAULTS faults, and no fault quotes a
whole large value.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union, cast

from harness import phrases
from harness.errors import ConfigError, Fault
from harness.values import Codec, Most, quoted

T = TypeVar("T")
MOST_FAULTS = 50
MOST_ITEMS = 10_000
"""Of a list or a mapping whose type does not say how many it may have (values.Most)."""
MOST_KEY = 512
"""Characters of a mapping's key."""
_MISSING = dataclasses.MISSING
_MOST_GUESSED = 60
"""Characters of a word that is compared with the known ones: for a long one that takes seconds."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_CASES: dict[bool, dict[type, dict[str, str]]] = {True: {}, False: {}}
_HINTS: dict[type, dict[str, Any]] = {}


def decode(cls: type[T], data: object, *, source: str, camel: bool = False, lenient: bool = False, path: str = "") -> T:
    """`data` as an instance of the dataclass `cls`; raises ConfigError with all faults, of very many with the first ones.

    camel: keys are camelCase (Kubernetes) instead of snake_case. lenient: unknown keys are passed over (wire messages
    between versions) instead of being faults.
    """
    reader = _Reader(camel, lenient)
    try:
        value = reader.read(cls, data, path)
    except _EnoughError:
        reader.faults.append(Fault("", f"there may be more: it was not read on after {MOST_FAULTS} faults"))
    if reader.faults:
        raise ConfigError(tuple(reader.faults), source)
    return cast(T, value)


def encode(value: object, *, camel: bool = False) -> Any:
    """The plain YAML/JSON form of a dataclass; fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints, keys = type_hints(type(value)), _keys(type(value), camel)
        items = ((key, _encode_as(hints[name], getattr(value, name), camel)) for key, name in keys.items())
        return {key: item for key, item in items if item is not None}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): encode(v, camel=camel) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [encode(v, camel=camel) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def type_hints(cls: type) -> dict[str, Any]:
    """The resolved field types of a dataclass, Annotated kept."""
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls, include_extras=True)
    return _HINTS[cls]


def is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is _MISSING and item.default_factory is _MISSING


@functools.cache
def codec_of(hint: Any) -> Codec | None:
    return next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Codec)), None)


@functools.cache
def most_of(hint: Any) -> int:
    """How many items a list or a mapping of that type may have."""
    return next((m.items for m in getattr(hint, "__metadata__", ()) if isinstance(m, Most)), MOST_ITEMS)


@functools.cache
def bare(hint: Any) -> Any:
    """`X` for `Annotated[X, …]` that has no codec, else the hint itself."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated and codec_of(hint) is None else hint


@functools.cache
def unwrap_optional(hint: Any) -> Any:
    """`X` for `X | None`, else the hint itself."""
    if typing.get_origin(hint) in (types.UnionType, Union):
        rest = [h for h in typing.get_args(hint) if h is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return hint


def _encode_as(hint: Any, value: object, camel: bool) -> Any:
    hint = bare(unwrap_optional(hint))
    codec = codec_of(hint)
    if value is None:
        return None
    if codec is not None:
        return codec.render(value)
    if typing.get_origin(hint) is tuple and isinstance(value, tuple):
        return [_encode_as(typing.get_args(hint)[0], item, camel) for item in value]
    return encode(value, camel=camel)


def _keys(cls: type, camel: bool) -> dict[str, str]:
    """External key → field name."""
    cache = _CASES[camel]
    if cls not in cache:
        cache[cls] = {_external(f.name, camel): f.name for f in dataclasses.fields(cls)}
    return cache[cls]


def _external(name: str, camel: bool) -> str:
    name = name.rstrip("_")
    if not camel:
        return name
    head, *rest = name.split("_")
    return head + "".join(_ACRONYMS.get(word, word.capitalize()) for word in rest)


# Kubernetes and Linkerd spell these in capitals inside a camelCase key (meshTLS, workloadIPs).
_ACRONYMS = {"tls": "TLS", "ips": "IPs", "uid": "UID", "cidrs": "CIDRs", "ids": "IDs"}


class _EnoughError(Exception):
    """There are so many faults that nobody reads on."""


class _Reader:
    def __init__(self, camel: bool, lenient: bool) -> None:
        self.camel, self.lenient = camel, lenient
        self.faults: list[Fault] = []

    def fault(self, path: str, message: str, hint: str = "") -> None:
        if len(self.faults) >= MOST_FAULTS:
            raise _EnoughError
        self.faults.append(Fault(path, message, hint))

    def read(self, hint: Any, data: object, path: str) -> Any:
        codec = codec_of(hint)
        if codec is not None:
            try:
                return codec.parse(data)
            except ValueError as error:
                return self.fault(path, str(error))
        most, hint = most_of(hint), bare(hint)
        origin = typing.get_origin(hint)
        if origin in (types.UnionType, Union):
            return None if data is None else self.read(unwrap_optional(hint), data, path)
        if origin is tuple:
            return self._read_tuple(typing.get_args(hint)[0], data, path, most)
        if origin in (dict, Mapping):
            name, item = typing.get_args(hint)
            return self._read_mapping(name, item, data, path, most)
        if hint is Any or hint is object:
            return data
        if dataclasses.is_dataclass(hint):
            return self._read_dataclass(cast(type, hint), data, path)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return self._read_enum(hint, data, path)
        return self._read_scalar(hint, data, path)

    def _read_tuple(self, item: Any, data: object, path: str, most: int) -> Any:
        if not isinstance(data, list | tuple):
            return self.fault(path, f"expected a list, found {_kind(data)}")
        if len(data) > most:
            return self.fault(path, f"it has {len(data)} items; {most} are allowed")
        return tuple(self.read(item, value, f"{path}[{i}]") for i, value in enumerate(data))

    def _read_mapping(self, name: Any, item: Any, data: object, path: str, most: int) -> Any:
        if not isinstance(data, Mapping):
            return self.fault(path, f"expected a mapping, found {_kind(data)}")
        if len(data) > most:
            return self.fault(path, f"it has {len(data)} keys; {most} are allowed")
        found = {}
        for key, value in data.items():
            text = str(key)
            here = _join(path, quoted(text) if len(text) > 60 else text)
            if len(text) > MOST_KEY:
                self.fault(here, f"a key may have {MOST_KEY} characters")
                continue
            if codec_of(name) is not None:
                self.read(name, text, here)
            found[text] = self.read(item, value, here)
        return found

    def _read_enum(self, hint: type[enum.Enum], data: object, path: str) -> Any:
        values = [member.value for member in hint]
        if data is False and "off" in values:  # YAML 1.1 reads a bare `off` as false
            data = "off"
        if data in values:
            return hint(data)
        known = [str(value) for value in values]
        guess = phrases.near(data, known) if isinstance(data, str) and len(data) < _MOST_GUESSED else ""
        return self.fault(path, f"{quoted(data)} is not one of {', '.join(known)}", guess)

    def _read_scalar(self, hint: type, data: object, path: str) -> Any:
        if hint is float and isinstance(data, int) and not isinstance(data, bool):
            try:
                return float(data)
            except OverflowError:
                return self.fault(path, "the number is too large")
        if not isinstance(data, hint) or (isinstance(data, bool) and hint is not bool):
            names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
            return self.fault(path, f"expected {names.get(hint, hint.__name__)}, found {_kind(data)}")
        if isinstance(data, str) and not data.isascii() and _SURROGATE.search(data):
            return self.fault(path, "it has half of a surrogate pair, which is no character")
        if isinstance(data, str) and "\0" in data:
            return self.fault(path, "it has a NUL, which no file and no argument can have")
        return data

    def _read_dataclass(self, cls: type, data: object, path: str) -> Any:
        if not isinstance(data, Mapping):
            return self.fault(path, f"expected a mapping, found {_kind(data)}")
        before, keys, hints = len(self.faults), _keys(cls, self.camel), type_hints(cls)
        if not self.lenient:
            for key in data:
                if key not in keys:
                    text = str(key)
                    name = text if len(text) <= 60 else quoted(text)
                    self.fault(_join(path, name), "unknown key", phrases.near(text, keys) if len(text) < _MOST_GUESSED else "")
        values: dict[str, Any] = {}
        required = {f.name for f in dataclasses.fields(cls) if is_required(f)}
        for key, name in keys.items():
            optional = unwrap_optional(hints[name]) != hints[name]
            if key in data and (data[key] is not None or optional):
                values[name] = self.read(hints[name], data[key], _join(path, key))
            elif name in required:
                self.fault(_join(path, key), "required, but missing")
        if len(self.faults) > before:
            return None
        try:
            return cls(**values)
        except ValueError as error:  # a dataclass may check its own invariants in __post_init__
            return self.fault(path, str(error))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _kind(data: object) -> str:
    if data is None:
        return "nothing"
    if isinstance(data, Mapping):
        return "a mapping"
    if isinstance(data, list | tuple):
        return "a list"
    return quoted(data)
