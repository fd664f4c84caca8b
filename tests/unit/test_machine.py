"""What the daemon finds out about its machine at the start."""

from __future__ import annotations

import ipaddress
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.daemon import machine
from harness.errors import TemporaryError
from harness.paths import Paths
from harness.system import addresses, process
from tests.snapshots import snapshot


def test_the_instance_id(tmp_path: Path) -> None:
    kept = tmp_path / "instance-id"
    assert machine.instance_id("configured", kept, False, "host") == ("configured", None)
    assert machine.instance_id(None, kept, True, "host") == ("host", None), "a container without a volume"
    fresh, _ = machine.instance_id(None, kept, False, "host")
    assert len(fresh) == 32
    assert machine.instance_id(None, kept, False, "host") == (fresh, None)
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("told", "left"), [(None, True), ([], False), ([2103], False), ([2103, 2116], True)])
def test_whether_the_others_leave_its_proxy_alone(tmp_path: Path, told: list[int] | None, left: bool) -> None:
    first = Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run")
    assert machine.left_alone(first.of("api"), 2116), "without a daemon there are no rules of its"
    first.run.mkdir()
    first.status.write_text(json.dumps(snapshot() | {"reported": None, "neighbours": told}))
    assert machine.left_alone(first.of("api"), 2116) is left
    assert machine.left_alone(first, 2102), "of its own rules nothing is asked"


@pytest.mark.parametrize(("later", "ended"), [(0, -signal.SIGUSR2), (1, None)], ids=["the daemon", "another with its pid"])
def test_only_a_daemon_is_woken(tmp_path: Path, later: int, ended: int | None) -> None:
    first = Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run")
    first.run.mkdir()
    with subprocess.Popen(["sleep", "60"]) as beside:
        began = process.start_time(beside.pid)
        assert began is not None
        first.status.write_text(json.dumps(snapshot() | {"pid": beside.pid, "pid_started": began + later}))
        machine.wake_others(first.of("api"))
        beside.send_signal(signal.SIGCONT if ended else signal.SIGTERM)
        assert beside.wait(10) == (ended or -signal.SIGTERM), "a signal that it does not know ends a program"


def test_the_address_that_speaks_to_another() -> None:
    for text in ("127.0.0.1", "::1"):
        assert addresses.source_of(ipaddress.ip_address(text)) == ipaddress.ip_address(text)
    with pytest.raises(TemporaryError, match=r"^asking for the way to fe80::1: "):  # without its link it leads nowhere
        addresses.source_of(ipaddress.ip_address("fe80::1"))


def test_pyroute2_works_without_what_its_package_imports() -> None:
    code = """
import asyncio, sys
from harness import lean_imports
lean_imports.apply()
from harness.daemon import loop
from harness.system.netlink import Netlink
routes = asyncio.run(Netlink().routes())
print(*sorted({"pyroute2.ndb", "sqlite3", "rich", "pyroute2.iproute"} & {name for name in sys.modules if sys.modules[name]}))
"""
    command = [sys.executable, "-s", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["pyroute2.iproute"]


def test_the_head_start_is_light() -> None:
    """SPIRE is started before the libraries for routes, rules and the controller are imported; that is its point."""
    code = "import sys, harness.daemon.head_start; print(*sorted({'pyroute2', 'httpx', 'aiohttp'} & set(sys.modules)))"
    command = [sys.executable, "-s", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == []


def test_the_parser_of_all_commands_needs_yaml_alone() -> None:
    """The man page is made from it, where a package is built and its libraries are not installed."""
    libraries = "{'structlog', 'pyroute2', 'httpx', 'h2', 'systemd', 'iptc', 'cryptography'}"
    code = f"import sys; from harness import cli; cli.parser(); print(*sorted({libraries} & set(sys.modules)))"
    command = [sys.executable, "-s", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == []
