"""The playground as a person runs it: once with its checks, and until Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import host_state
from tests.linkerd_lab import MISSING, WHY
from tests.namespaces import Namespace, namespace
from tests.processes import family
from tests.waiting import wait

ROOT = Path(__file__).resolve().parents[2]
DEMO = [sys.executable, "-m", "demo"]

pytestmark = pytest.mark.skipif(
    os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") or sys.prefix != sys.base_prefix,
    reason="the playground runs on the distribution's interpreter",
)


@pytest.fixture
def host() -> Iterator[Namespace]:
    """The demo's host: a network of its own, which no other program of this machine changes meanwhile."""
    with namespace() as found:
        yield found


@pytest.mark.parametrize("flags", [(), pytest.param(("--real",), marks=pytest.mark.skipif(bool(MISSING), reason=WHY))])
def test_the_scenario_passes_and_the_host_is_as_before(flags: tuple[str, ...], host: Namespace) -> None:
    host_state.dump(host.enter)
    before = host_state.dump(host.enter)
    result = subprocess.run(
        [*host.enter, *DEMO, "--once", *flags], capture_output=True, text=True, check=False, cwd=ROOT, timeout=300
    )
    answer = json.loads(result.stdout.splitlines()[-1])
    failed = [name for name, passed in answer["checks"].items() if not passed]
    assert (failed, result.returncode) == ([], 0), result.stdout + result.stderr
    assert len(answer["checks"]) == 12
    assert host_state.differences(before, host_state.dump(host.enter)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_stays_until_it_is_told_and_leaves_nothing_however_it_ends(number: signal.Signals, host: Namespace) -> None:
    before = host_state.dump(host.enter)
    process = subprocess.Popen(
        [*host.enter, *DEMO], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )
    assert process.stdout is not None
    seen = ""
    while "the page:" not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    for word in (
        "face-1",
        "smiley-1",
        "color-1",
        "gui-1",
        "face-2",
        "stand-in",
        "real",
        "spiffe://root.linkerd.cluster.local/face",
    ):
        assert word in seen
    url = re.search(r"http://127\.0\.0\.1:\d+/", seen)
    assert url is not None
    page = host.run("curl", "-fsS", "-m10", url[0])
    assert "<html" in page.lower()
    face = json.loads(host.run("curl", "-fsS", "-m10", f"{url[0]}face/center/?row=1&col=1"))
    assert face["smiley"] == "&#x1F603;"
    started = family(process.pid)
    assert len(started) > 10, "the machines and their workloads"
    if number is signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    process.wait(60)
    process.stdout.close()
    assert number is signal.SIGKILL or process.returncode == 0
    wait(lambda: not any(one.lives for one in started))
    assert host_state.differences(before, host_state.dump(host.enter)) == []


def test_the_real_one_says_what_it_lacks() -> None:
    """Where the programs that no registry carries are not to be seen."""
    hidden = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs tmpfs /usr/local/bin && exec "$@"',
        "sh",
        *DEMO,
        "--real",
        "--once",
    ]
    done = subprocess.run(hidden, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 69
    assert "--real needs programs that are not on PATH" in done.stderr and "linkerd2-proxy" in done.stderr
