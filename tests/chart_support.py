"""The chart as helm renders it, without a cluster."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes_build import helm
from tests.mesh import ROOT

CHART = ROOT / "deploy" / "chart"
NAME, NAMESPACE = "meshexp-controller", "meshexp"
REPOSITORY = {"image": {"repository": "registry.example.com/meshexp-controller"}}
Object = dict[str, Any]


def template(values: Mapping[str, Any], chart: Path = CHART, namespace: str = NAMESPACE) -> subprocess.CompletedProcess[str]:
    """`values`: over the chart's own, and over an image's repository."""
    words = [helm(), "template", NAME, str(chart), f"--namespace={namespace}", "--kube-version=1.34.0", "--values=-"]
    given = json.dumps(over(REPOSITORY, values))
    return subprocess.run(words, input=given, capture_output=True, text=True, timeout=60, check=False)


def objects(values: Mapping[str, Any] = {}, chart: Path = CHART, namespace: str = NAMESPACE) -> list[Object]:
    done = template(values, chart, namespace)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def only(found: list[Object], kind: str) -> Object:
    (one,) = (one for one in found if one["kind"] == kind)
    return one


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """As helm lays values over others."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = over(merged[key], value) if both else value
    return merged


def copy(folder: Path) -> Path:
    """A chart to change."""
    shutil.copytree(CHART, folder)
    return folder


def identity(one: Object) -> tuple[str, str, str]:
    """What no two objects of a cluster may share."""
    return one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]
