"""Which binary a proxy runs, and whether it is still the one that a start would run now.

A file that is replaced, or another version that `meshexp proxy use` chose, touches no proxy that runs: its next start takes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.specs import ProxySpec
from harness.system import files

InUse = Callable[[], Path]
"""The binary where the configuration names none."""


@dataclass(frozen=True, slots=True)
class Program:
    """`chosen`: the configuration's path, if it names one. `file`: what changes when the file at `path` is replaced."""

    chosen: str | None
    path: str
    file: str

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def replaced(self, in_use: InUse) -> str:
        """What runs, where a start would now run another binary; empty while it is the same."""
        now = find(self.chosen, in_use)
        if (now.path, now.file) == (self.path, self.file):
            return ""
        if not now.file:
            return f"{self.path}, which is gone"
        return f"{self.path}" + (" as it was before" if now.path == self.path else f", before {now.path} came into use")


def find(chosen: str | None, in_use: InUse) -> Program:
    """What a start would run now."""
    path = Path(chosen) if chosen else in_use()
    return Program(chosen, str(path), files.identity(path))


def recorded(left: Mapping[str, Any]) -> Program:
    chosen = left.get("chosen")
    return Program(str(chosen) if chosen else None, str(left.get("path", "")), str(left.get("file", "")))


def fingerprint(spec: ProxySpec) -> str:
    """Of all that a running proxy cannot change: when it differs, the proxy has to be started again."""
    return hashlib.sha256(repr((spec.path, spec.user, spec.env, spec.ports)).encode()).hexdigest()
