"""The alert rules, by promtool: each fires when it must, goes on while it must, and is silent otherwise.

A step is a minute. What is compared is the series ALERTS of Prometheus itself, so that `for` and all labels take part.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import explained
from harness.check_problems import REGISTRY
from tests.alert_cases import CASES, Case, Labels
from tests.exposition import PROMTOOL
from tests.mesh import ROOT

ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yaml"
RULES = {
    rule["alert"]: (group["name"], rule) for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}


def labelled(name: str, labels: Labels) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def promtool_test(case: Case) -> dict[str, Any]:
    severity = RULES[case.alert][1]["labels"]["severity"]
    own = {"alertname": case.alert, "alertstate": "firing", "severity": severity}
    firing = labelled("ALERTS", {"alertname": case.alert, "alertstate": "firing"})
    return {
        "interval": "1m",
        "input_series": [{"series": labelled(name, labels), "values": values} for name, labels, values in case.series],
        "promql_expr_test": [
            {
                "expr": firing,
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": labelled("ALERTS", {**labels, **own}), "value": 1} for labels in fires],
            }
            for minute, fires in case.fires.items()
        ],
    }


def promtool(*words: str) -> None:
    done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (Debian: prometheus)")


@needs_promtool
def test_prometheus_takes_them() -> None:
    promtool("check", "rules", str(ALERTS))


@needs_promtool
@pytest.mark.parametrize("alert", RULES)
def test_it_fires_when_it_should_and_only_then(alert: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case.alert == alert]
    assert any(any(case.fires.values()) for case in cases), "no case in which it fires"
    assert any([] in case.fires.values() for case in cases), "no case in which it does not"
    file = tmp_path / "test.yaml"
    tests = [promtool_test(case) for case in cases]
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(file))


@pytest.mark.parametrize("alert", RULES)
def test_it_names_whose_it_is_and_says_what_to_do(alert: str) -> None:
    group, rule = RULES[alert]
    firing = [labels for case in CASES if case.alert == alert for fires in case.fires.values() for labels in fires]
    if group == "meshexp-machines":
        assert all({"host", "namespace", "group"} <= labels.keys() for labels in firing)
    annotations = rule["annotations"]
    assert annotations["summary"] and annotations["description"] and rule["labels"]["severity"] in ("warning", "critical")
    named = set(re.findall(r"\$labels\.(\w+)", str(annotations)))
    assert all(named <= labels.keys() for labels in firing), "a label that is not there is an empty text"
    if {"host", "group"} <= firing[0].keys():
        assert "host" in named


def anchors(page: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("alert", RULES)
def test_its_runbook_exists(alert: str) -> None:
    runbook = RULES[alert][1]["annotations"]["runbook_url"]
    assert runbook.startswith(explained.DOCS)
    page, _, place = runbook.removeprefix(explained.DOCS).partition("#")
    places = {place.replace("{{ $labels.problem }}", code) for code in REGISTRY}
    assert places <= anchors(page)


def test_a_problems_runbook_is_what_explain_prints() -> None:
    runbook = RULES["MeshexpProblem"][1]["annotations"]["runbook_url"]
    for code, problem in REGISTRY.items():
        assert runbook.replace("{{ $labels.problem }}", code) == explained.url(problem)


def test_each_alert_has_its_runbook_and_no_other_is_there() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "alerts.md").read_text(), re.MULTILINE)
    assert headings == list(RULES)
