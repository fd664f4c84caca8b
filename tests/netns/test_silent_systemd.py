"""systemd that does not answer is not taken for a unit that is not there. By the real systemctl, where its bus is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mesh import ENVIRONMENT, ROOT
from tests.namespaces import namespace

GONE = ("unshare", "--mount", "sh", "-ec", 'mount -t tmpfs none /run; mkdir -p /run/systemd/system; exec "$@"', "sh")
"""To this process systemd runs the machine, and nobody answers at its sockets."""
ASKS = """
import asyncio, json, sys
from harness.errors import HarnessError
from harness.system import service, units

async def child():
    return str(await units.Units().find("proxy"))

questions = {
    "show": lambda: asyncio.run(units.show("meshexp-proxy.service", "MainPID")),
    "find": lambda: asyncio.run(child()),
    "job": lambda: asyncio.run(units.job("meshexp-harness.service")),
    "managed": lambda: service.managed("meshexp-harness.service"),
    "state": lambda: str(service.state("meshexp-harness.service")),
}
said = {}
for name, question in questions.items():
    try:
        said[name] = f"answered {question()}"
    except HarnessError as error:
        said[name] = error.message
print(json.dumps(said))
"""


def asked(*through: str, path: str = os.environ["PATH"]) -> dict[str, str]:
    argv = [*through, sys.executable, "-s", "-c", ASKS]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=True, env={**ENVIRONMENT, "PATH": path}, cwd=ROOT, timeout=60
    )
    return dict(json.loads(done.stdout))


def test_no_question_takes_silence_for_an_absence() -> None:
    said = asked(*GONE)
    assert all("Failed to connect to bus" in text for text in said.values()), said


def test_nor_a_systemctl_that_fails_for_another_reason(tmp_path: Path) -> None:
    program = tmp_path / "systemctl"
    program.write_text("#!/bin/sh\necho no way >&2\nexit 4\n")
    program.chmod(0o755)
    said = asked(*GONE, path=f"{tmp_path}:{os.environ['PATH']}")
    assert all("no way" in text for text in said.values()), said


@pytest.mark.parametrize("words", [("cleanup",), ("cleanup", "--dry-run")])
def test_a_cleanup_says_that_the_proxy_may_run_on(tmp_path: Path, words: tuple[str, ...]) -> None:
    """And removes the rest: rules and routes are no matter of systemd."""
    with namespace() as where:
        where.run("nft", "add table inet meshexp")
        where.run("nft", "add chain inet meshexp outbound { type nat hook output priority -100; }")
        folders = {f"MESHEXP_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "RUN", "STATE")}
        argv = [*where.enter, *GONE, sys.executable, "-s", "-m", "harness", *words]
        env = {**ENVIRONMENT, **folders, "MESHEXP_RESOLV_CONF": str(tmp_path / "resolv.conf")}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=60)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "× proxy: systemd does not say how meshexp-proxy.service is: Failed to connect to bus" in done.stderr
        assert ("meshexp" in where.run("nft", "list", "tables")) is ("--dry-run" in words), done.stdout + done.stderr
