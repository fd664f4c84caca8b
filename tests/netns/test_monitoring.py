"""The alert rules and the dashboard: each metric and label that they name is in what a real machine and its controller say.

When the rules fire is in tests/unit/test_alerts.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import metrics as of_controller
from tests import exposition
from tests.exposition import Metrics
from tests.mesh import ROOT, mesh
from tests.netns.test_metrics import get

ALERTS, DASHBOARD = ROOT / "deploy" / "monitoring" / "alerts.yaml", ROOT / "deploy" / "monitoring" / "dashboard.json"
SCRAPED = {"instance", "job"}
"""Prometheus' own labels."""
NAME = re.compile(r"\b((?:meshexp|node)_[a-z0-9_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'([a-z_]+)(?:=~|!~|!=|=)"')
GROUPED = re.compile(r"\b(?:by|on|without|group_left) \(([^)]*)\)")


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, set[str]]]:
    """The labels of each metric."""
    with mesh() as found:
        found.group(probes=[{"tcpSocket": {"host": "127.0.0.1", "port": 4191}, "periodSeconds": 1}])
        found.start_controller()
        found.start_daemon()
        found.wait_ready()
        assert found.meshexp("cordon").returncode == 0
        found.wait(lambda: "cordoned" in get(found.vm))
        texts = get(found.vm), get(found.node, "http://127.0.0.1:9995/metrics")
    for text in texts:
        exposition.lint(text)
    parsed = [exposition.read(text) for text in texts]
    assert set(parsed[1].families) == set(of_controller.FAMILIES)
    yield {name: labels for metrics in parsed for name, labels in by_name(metrics)}


def by_name(metrics: Metrics) -> Iterator[tuple[str, set[str]]]:
    for name in metrics.names:
        yield name, {label for own, labels in metrics.samples if own == name for label, _ in labels}


def expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("expr", "definition"):
                yield inner
            else:
                yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


@pytest.mark.parametrize("path", [ALERTS, DASHBOARD], ids=lambda path: path.name)
def test_what_they_name_exists(path: Path, told: dict[str, set[str]]) -> None:
    found = list(expressions(yaml.safe_load(path.read_text())))
    assert len(found) > 10
    for expression in found:
        names = NAME.findall(expression)
        assert names, expression
        for name, matchers in names:
            assert name in told, f"{name} is nowhere: {expression}"
            unknown = set(MATCHER.findall(matchers)) - told[name] - SCRAPED
            assert not unknown, f"{name} has no {unknown}: {expression}"
        grouped = {label for labels in GROUPED.findall(expression) for label in re.findall(r"\w+", labels)}
        unknown = grouped - SCRAPED - {label for name, _ in names for label in told[name]}
        assert not unknown, f"nothing in it has {unknown}: {expression}"


def test_every_metric_is_on_the_dashboard_or_in_an_alert(told: dict[str, set[str]]) -> None:
    used = {
        name for path in (ALERTS, DASHBOARD) for e in expressions(yaml.safe_load(path.read_text())) for name, _ in NAME.findall(e)
    }
    assert told.keys() - used == {"meshexp_child_up", "meshexp_start_time_seconds"}, "what restarts shows them too"


def test_panels_do_not_lie_over_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
