"""The first line of `meshexp status`: it says why a machine is not Ready."""

from __future__ import annotations

from typing import Any

import pytest

from harness import status_cli
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
    assert status_cli.text(data).splitlines()[0] == f"{data['phase']} since {data['since']}{why}"
