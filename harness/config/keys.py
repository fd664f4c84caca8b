"""How the tables of the configuration are written: a field is a key with its sentence. No I/O."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def key(doc: str, default: Any = ...) -> Any:
    """A configuration key with its sentence; without a default it is required."""
    metadata = {"doc": doc}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


def mapping(doc: str) -> Any:
    return field(default_factory=dict, metadata={"doc": doc})


def section(cls: type, doc: str) -> Any:
    return field(default_factory=cls, metadata={"doc": doc})
