"""Prometheus' text form, read as strictly as it is written down."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

OF_MACHINE = {"host", "namespace", "group"}
PROMTOOL = shutil.which("promtool")
_SAMPLE = re.compile(r'([a-z_:][a-z0-9_:]*)(\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\n"])*",?)*\})? (-?[0-9.e+-]+)')
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\[\\n"])*)"')


@dataclass(frozen=True, slots=True)
class Metrics:
    """`families`: by name, the kind. `samples`: name, then labels in order, to the value."""

    families: dict[str, str]
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float | None:
        """Of the sample with these labels; whose machine it is need not be given."""
        given = set(labels.items())
        found = [
            value
            for (own, has), value in self.samples.items()
            if own == name and {(key, text) for key, text in has if key in labels or key not in OF_MACHINE} == given
        ]
        assert len(found) < 2, f"{name} of which machine?"
        return found[0] if found else None

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


def read(text: str) -> Metrics:
    """Each family has its help and its type before its samples, and is in one place; no sample is there twice."""
    assert text.endswith("\n")
    families: dict[str, str] = {}
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    helped = family = ""
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            helped = line.split(" ", 3)[2]
        elif line.startswith("# TYPE "):
            family, kind = line.split(" ")[2:]
            assert family == helped and family not in families, line
            families[family] = kind
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, line
            key = match[1], frozenset(_LABEL.findall(match[2] or ""))
            assert match[1] in (family, f"{family}_sum", f"{family}_count") and key not in samples, line
            samples[key] = float(match[3])
    return Metrics(families, samples)


def lint(text: str) -> None:
    """By promtool, where it is: it knows the conventions for names too."""
    if PROMTOOL is not None:
        found = subprocess.run(
            [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=30
        )
        assert found.returncode == 0, found.stdout + found.stderr
