"""The table of readers in docs/threat-model.md names tests that are there, in each row."""

from __future__ import annotations

import re

from tests.mesh import ROOT


def test_each_bound_names_its_tests() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    rows = text.partition("## Readers of foreign bytes")[2].partition("\n\nA file")[0].splitlines()
    rows = [row for row in rows if row.startswith("| ") and not row.startswith("| reader")]
    there = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert rows
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.split("|")[-2])
        assert named and set(named) <= there, row
