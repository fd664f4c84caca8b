"""`meshexp cordon` and `drain` where no member hears of it: what they say, and that nothing counts as drained that was not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness import cordon_cli
from harness.errors import TemporaryError
from harness.paths import Paths
from harness.system import cordon
from harness.terminal import Answer
from tests.snapshots import snapshot

BEFORE = {"ready": False, "message": "run `meshexp join INVITATION`", "pid": os.getpid(), "conditions": []}


def paths(folder: Path, said: dict[str, Any] | None) -> Paths:
    found = Paths(folder / "etc", folder / "state", folder / "run")
    found.state.mkdir()
    found.run.mkdir()
    if said is not None:
        found.status.write_text(json.dumps(said))
    return found


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        (None, "no meshexp-harness runs here; it counts from the next start on"),
        (BEFORE | {"phase": "Waiting"}, "meshexp-harness has not joined the mesh yet; it counts as soon as it has"),
        (BEFORE | {"phase": "Starting"}, "meshexp-harness has not joined the mesh yet; it counts as soon as it has"),
    ],
)
def test_without_a_member_it_counts_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: dict[str, Any] | None, printed: str
) -> None:
    where = paths(tmp_path, said)
    assert cordon_cli.cordon(where, "new disks", Answer()) == 0
    assert capsys.readouterr().err.strip() == printed
    assert cordon.read(where.cordon) is not None


def test_a_killed_daemon_has_told_nobody(tmp_path: Path) -> None:
    where = paths(tmp_path, snapshot() | {"pid_started": 1})
    with pytest.raises(TemporaryError, match=r"the controller does not hear of it: the daemon .* without a clean stop"):
        cordon_cli.cordon(where, "new disks", Answer())
    assert cordon.read(where.cordon) is not None
