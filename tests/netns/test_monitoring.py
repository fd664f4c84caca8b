"""The alert rules and the dashboard: each metric and label that they name is in what a real machine and its controller say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import metrics as of_controller
from tests import exposition
from tests.exposition import PROMTOOL, Metrics
from tests.mesh import ROOT, mesh
from tests.netns.test_metrics import get

ALERTS, DASHBOARD = ROOT / "deploy" / "monitoring" / "alerts.yaml", ROOT / "deploy" / "monitoring" / "dashboard.json"
SCRAPED = {"instance", "job"}
"""Prometheus' own labels."""
NAME = re.compile(r"\b((?:meshexp|node)_[a-z0-9_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'([a-z_]+)(?:=~|!~|!=|=)"')


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, set[str]]]:
    """The labels of each metric."""
    with mesh() as found:
        found.group(probes=[{"tcpSocket": {"port": 4191}, "periodSeconds": 1}])
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


def test_every_metric_is_on_the_dashboard_or_in_an_alert(told: dict[str, set[str]]) -> None:
    used = {
        name for path in (ALERTS, DASHBOARD) for e in expressions(yaml.safe_load(path.read_text())) for name, _ in NAME.findall(e)
    }
    assert told.keys() - used == {"meshexp_child_up", "meshexp_start_time_seconds"}, "what restarts shows them too"


def test_each_alert_says_what_and_how_bad() -> None:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["alert"].startswith("Meshexp") and rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"] and rule["annotations"]["description"]


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


CASES = [
    ("MeshexpMachineNotReady", {'meshexp_ready{instance="a"}': "0x20"}, 1),
    (
        "MeshexpMachineNotReady",
        {'meshexp_ready{instance="a"}': "0x20", 'meshexp_problem{instance="a",problem="cordoned"}': "1x20"},
        0,
    ),
    (
        "MeshexpMachineNotReady",
        {'meshexp_ready{instance="a"}': "0x20", 'meshexp_problem{instance="a",problem="lease-lapsed"}': "1x20"},
        0,
    ),
    ("MeshexpMachineNotReady", {'meshexp_ready{instance="a"}': "1x20"}, 0),
    ("MeshexpDaemonSilent", {"meshexp_last_cycle_timestamp_seconds": "0x20"}, 1),
    ("MeshexpDaemonSilent", {"meshexp_last_cycle_timestamp_seconds": "0+60x20"}, 0),
    ("MeshexpCertificateNotRenewed", {'meshexp_certificate_expiry_timestamp_seconds{certificate="svid"}': "700x20"}, 1),
    ("MeshexpCertificateNotRenewed", {'meshexp_certificate_expiry_timestamp_seconds{certificate="svid"}': "9000x20"}, 0),
    ("MeshexpChildKeepsExiting", {'meshexp_child_restarts_total{child="proxy"}': "0+1x20"}, 1),
    ("MeshexpChildKeepsExiting", {'meshexp_child_restarts_total{child="proxy"}': "0x5 1x14"}, 0),
    ("MeshexpSomebodyChangesTheRules", {'meshexp_repairs_total{part="redirect"}': "0+1x20"}, 1),
    ("MeshexpControllerSilent", {"meshexp_controller_last_answer_timestamp_seconds": "0x20"}, 1),
    ("MeshexpControllerSilent", {"meshexp_controller_last_answer_timestamp_seconds": "0+60x20"}, 0),
    ("MeshexpControllerHasNoLeader", {}, 1),
    (
        "MeshexpControllerHasNoLeader",
        {'meshexp_controller_leader{instance="a"}': "0x20", 'meshexp_controller_leader{instance="b"}': "1x20"},
        0,
    ),
    ("MeshexpGroupHasNoReadyMachine", {'meshexp_controller_workloads{namespace="n",group="g",ready="false"}': "2x20"}, 1),
    (
        "MeshexpGroupHasNoReadyMachine",
        {
            'meshexp_controller_workloads{namespace="n",group="g",ready="false"}': "2x20",
            'meshexp_controller_workloads{namespace="n",group="g",ready="true"}': "1x20",
        },
        0,
    ),
]  # fmt: skip


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (Debian: prometheus)")
def test_the_rules_fire_when_they_should(tmp_path: Path) -> None:
    """A minute a step; each rule after 15 of them, by promtool."""
    rules = {rule["alert"]: rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    cases = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f"count({rules[alert]}) or vector(0)",
                    "eval_time": "15m",
                    "exp_samples": [{"labels": "{}", "value": fires}],
                }
            ],
        }
        for alert, series, fires in CASES
    ]  # fmt: skip
    test = tmp_path / "test.yaml"
    test.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": cases}))
    for words in (("check", "rules", str(ALERTS)), ("test", "rules", str(test))):
        done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
