"""The oldest Kubernetes that the chart promises, as a newer API server emulates it: its APIs, and its functions of CEL."""

from __future__ import annotations

import functools
import json

import pytest
import yaml

from controller.manifest import GROUP_API
from tests.controller_support import group_object
from tests.kubernetes_support import CRDS, ROOT, end, start

PROMISED = yaml.safe_load((ROOT / "deploy/chart/Chart.yaml").read_text())["kubeVersion"]
OLDEST = PROMISED.removeprefix(">=").removesuffix(".0-0")


def test_all_that_is_applied_is_taken(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = start(tmp_path_factory.mktemp("oldest"), f"--emulated-version={OLDEST}")
    try:
        made.apply(*CRDS)
        made.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        made.kubectl("create", "namespace", "linkerd")
        made.apply(ROOT / "deploy/manifests/meshexp-controller.yaml")
        apply = functools.partial(made.kubectl, "apply", "--server-side", "-f", "-", check=False)
        item = group_object("face", namespace="default", api=GROUP_API)
        assert "serverside-applied" in apply(given=json.dumps(item))
        wrong = {"admission": {"addressCIDRs": ["10.0.0.1/8"]}}
        assert "without host bits" in apply(given=json.dumps(item | {"spec": wrong}))
    finally:
        for process in made.processes.values():
            end(process)


def test_the_readme_promises_the_same() -> None:
    assert f"| Kubernetes | {OLDEST} or newer" in (ROOT / "README.md").read_text()
