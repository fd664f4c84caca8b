"""Every manifest that a page shows is taken by a real API server, as a reader would apply it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from tests.kubernetes_support import ROOT, cluster

PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def manifests(page: Path) -> list[str]:
    """Each block that begins with an apiVersion."""
    blocks = re.findall(r"^(?: {4}apiVersion: .*\n)(?:(?: {4}.*)\n)*", page.read_text(), re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


SHOWN = [pytest.param(text, id=page.name) for page in PAGES for text in manifests(page)]


def test_there_are_some() -> None:
    kinds = {item["kind"] for case in SHOWN for item in yaml.safe_load_all(str(case.values[0]))}
    assert {"ExternalGroup", "Service"} <= kinds


@pytest.mark.parametrize("text", SHOWN)
def test_it_is_applied(text: str) -> None:
    for item in yaml.safe_load_all(text):
        namespace = item["metadata"].get("namespace", "default")
        cluster().kubectl("create", "namespace", namespace, check=False)  # it may be there
    said = cluster().kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", given=text)
    assert said.count("(server dry run)") == len(list(yaml.safe_load_all(text)))
