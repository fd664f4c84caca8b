"""What kubeconfig files say, merged as kubectl merges them: the first file that has a name decides about it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness import reading, yaml_text
from harness.errors import ConfigError, Fault

_WHICH = "say which cluster: set KUBECONFIG, or give --kubeconfig FILE"
_KINDS = {"contexts": "context", "clusters": "cluster", "users": "user"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One cluster, user or context. `folder`: its file's, which relative paths in it start from."""

    values: Mapping[str, Any]
    folder: pathlib.Path


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one context leads to. `source`: the files, for messages."""

    source: str
    cluster: Entry
    user: Entry
    namespace: str


def usual(environment: Mapping[str, str] = os.environ) -> tuple[pathlib.Path, ...]:
    """The user's own files: those in $KUBECONFIG, else ~/.kube/config. Of several, those that are not there are passed over."""
    named = tuple(pathlib.Path(name) for name in environment.get("KUBECONFIG", "").split(os.pathsep) if name)
    there = tuple(path for path in named if path.exists())
    home = pathlib.Path(environment.get("HOME") or pathlib.Path.home())
    return there or named or (home / ".kube" / "config",)


def choose(paths: Iterable[pathlib.Path], context: str = "") -> Chosen:
    """`context`: its name; the current one if empty. Raises ConfigError."""
    entries: dict[str, dict[str, Entry]] = {kind: {} for kind in _KINDS}
    files = tuple(paths)
    current = ""
    for path in files:
        data = _load(path)
        current = current or str(data.get("current-context") or "")
        for kind, inner in _KINDS.items():
            for name, values in _named(path, data.get(kind), kind, inner):
                entries[kind].setdefault(name, Entry(values, path.parent))
    source = ", ".join(map(str, files))
    wanted = context or current
    if not wanted:
        known = _known(entries["contexts"])
        raise ConfigError((Fault("current-context", f"not set, and no --context is given; {known}"),), source)
    found = _entry(entries, "contexts", wanted, source).values
    cluster = _entry(entries, "clusters", str(found.get("cluster", "")), source)
    user = _entry(entries, "users", str(found["user"]), source) if found.get("user") else Entry({}, files[0].parent)
    return Chosen(source, cluster, user, str(found.get("namespace") or "default"))


def _load(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        data = yaml_text.document(reading.text(path)) or {}
    except UnicodeDecodeError as error:
        raise ConfigError((Fault("", f"not text: {error}"),), str(path)) from None
    except OSError as error:
        raise ConfigError((Fault("", f"cannot be read: {error.strerror}", _WHICH),), str(path)) from None
    except ValueError as error:
        raise ConfigError((Fault("", str(error)),), str(path)) from None
    if not isinstance(data, Mapping):
        raise ConfigError((Fault("", "not a kubeconfig: expected a mapping"),), str(path))
    return data


def _named(path: pathlib.Path, given: Any, kind: str, inner: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if not isinstance(given or [], list):
        raise ConfigError((Fault(kind, "expected a list"),), str(path))
    for number, entry in enumerate(given or ()):
        values = (entry.get(inner) or {}) if isinstance(entry, Mapping) else None
        if not isinstance(values, Mapping):
            raise ConfigError((Fault(f"{kind}[{number}]", f"expected a mapping with name and {inner}"),), str(path))
        yield str(entry.get("name", "")), values


def _entry(entries: Mapping[str, Mapping[str, Entry]], kind: str, name: str, source: str) -> Entry:
    found = entries[kind].get(name)
    if found is None:
        raise ConfigError((Fault(kind, f"there is no {_KINDS[kind]} {name!r}; {_known(entries[kind])}"),), source)
    return found


def _known(entries: Mapping[str, Entry]) -> str:
    return f"there are: {', '.join(sorted(entries))}" if entries else "there are none"
