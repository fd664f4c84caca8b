"""When a container's workload starts, by what the daemon's status says and by the configuration."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from harness.container_gate import OPEN_SECONDS, Gate
from harness.paths import Paths
from tests.snapshots import snapshot

HOUR = 3600.0


class Container:
    """A gate with what it says, at the times that the test names."""

    def __init__(self, folder: Path, on_proxy_loss: str | None = None) -> None:
        self.where = Paths(config=folder / "config", state=folder / "state", run=folder / "run")
        self.where.config.mkdir()
        self.where.run.mkdir()
        redirect = {"redirect": {"on_proxy_loss": on_proxy_loss}} if on_proxy_loss else {}
        workload = {"workload": {"group": "face", "namespace": "faces"}}
        self.where.harness_yaml.write_text(json.dumps(workload | redirect))
        self.said: list[str] = []
        self.gate = Gate(self.where, self.said.append)
        self.began = time.monotonic()

    def status(self, **conditions: str) -> None:
        found = [
            {"name": name, "status": status, "message": f"{name} is {status}", "problem": None, "severity": None, "hint": None}
            for name, status in conditions.items()
        ]
        self.where.status.write_text(json.dumps(snapshot() | {"conditions": found}))

    def opens(self, seconds: float) -> bool:
        return self.gate.open(self.began + seconds)


@pytest.mark.parametrize("setting", [None, "closed"])
def test_closed_it_waits_for_ever_and_says_for_what_ever_more_rarely(tmp_path: Path, setting: str | None) -> None:
    container = Container(tmp_path, setting)
    assert not any(container.opens(second) for second in range(3))
    assert container.said == []
    container.status(Application="False", Routes="True", Registered="False", Redirected="Unknown")
    assert not any(container.opens(second) for second in range(3, int(HOUR)))
    assert 5 < len(container.said) < 25
    assert all("Registered: Registered is False" in line for line in container.said)
    container.status(Routes="True", Registered="True", Redirected="True")
    assert container.opens(HOUR)


def test_closed_it_waits_too_where_no_daemon_or_no_configuration_is_right(tmp_path: Path) -> None:
    container = Container(tmp_path)
    container.where.harness_yaml.write_text("redirect: {on_proxy_loss: perhaps}")
    assert not container.opens(HOUR)
    assert "no meshexp-harness runs here" in container.said[0]


def test_open_it_starts_after_some_seconds_with_a_warning(tmp_path: Path) -> None:
    container = Container(tmp_path, "open")
    container.status(Registered="False", Redirected="Unknown")
    assert not container.opens(OPEN_SECONDS - 1)
    assert container.opens(OPEN_SECONDS + 1)
    assert "in plaintext" in container.said[-1] and "Registered is False" in container.said[-1]


def test_a_redirect_in_force_opens_at_once(tmp_path: Path) -> None:
    container = Container(tmp_path)
    container.status(Redirected="True", Probes="False")
    assert container.opens(0.0)
    assert container.said == []
