"""The first line of `meshexp status`: it says why a machine is not Ready."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from harness import status, status_cli
from harness.status import Truth
from tests.mesh import ROOT
from tests.open_folder import open_folder
from tests.snapshots import snapshot

WARNING = {"name": "Metrics", "status": "True", "message": "not exported", "problem": "m", "severity": "warning", "hint": "h"}
ERROR = WARNING | {"name": "Routes", "status": "False", "message": "no route\n  to a network", "severity": "error"}
CONFIGURATION = WARNING | {"name": "Configuration", "message": "taking it into use: 1 fault\n  proxxy: unknown key"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"phase": "Ready", "conditions": [WARNING]}, ""),
        ({"phase": "Degraded", "message": "connection refused"}, ": connection refused"),
        ({"phase": "Degraded", "reason": "Cordoned", "message": "new disks"}, ": cordoned: new disks"),
        ({"phase": "Degraded", "conditions": [CONFIGURATION]}, ": Configuration: taking it into use: 1 fault"),
        ({"phase": "Degraded", "conditions": [WARNING, ERROR]}, ": Routes: no route"),
    ],
)
def test_it_says_why(changes: dict[str, Any], why: str) -> None:
    data = snapshot() | changes
    since, _, told = status_cli.text(data).splitlines()[0].partition(")")
    assert re.fullmatch(rf"{data['phase']} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\dZ \([ \w]+", since) and told == why


def test_no_message_or_hint_looks_like_a_line_of_its_own() -> None:
    """Some are the controller's: in the first column is only what this command says itself."""
    forged = "no route\n√ Routes        all is well"
    said = snapshot()
    before = len(status_cli.text(said).splitlines())
    said["message"] = forged
    said["conditions"][0] |= {"problem": "route-conflict", "severity": "warning", "message": forged, "hint": forged}
    lines = status_cli.text(said).splitlines()
    assert len(lines) > before and not any(line.startswith("√ Routes        all is well") for line in lines)


def test_a_word_of_another_release_is_no_error() -> None:
    told = status.retold("Routes", snapshot()["conditions"][0] | {"status": "Pending", "problem": None}, "the first workload's")
    assert told.truth is Truth.UNKNOWN


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_this_user_may_not_read_is_not_an_empty_one() -> None:
    with open_folder() as own:
        folder = own / "instances"
        folder.mkdir()
        ours = {"MESHEXP_CONFIG_DIR": str(own), "MESHEXP_RUN_DIR": str(own)}
        environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **ours}
        command = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-s", "-m", "harness", "status"]

        def warned(mode: int) -> bool:
            folder.chmod(mode)
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
            assert done.stdout.startswith("Stopped")
            return f"{folder} cannot be read by this user" in done.stderr

        assert not warned(0o755) and warned(0o700)
