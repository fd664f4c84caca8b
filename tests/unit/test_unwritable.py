"""A file that cannot be written is a problem of its own, whatever it is needed for: no part blames a network, a firewall or a
package that is missing."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.clock import SystemClock
from harness.config import schema
from harness.daemon.export import Exporter
from harness.errors import UnwritableError
from harness.problems import Found
from harness.reconcilers import redirect
from harness.reconcilers.dns import Start
from harness.specs import User
from harness.status import Condition
from harness.supervisor import State
from harness.system import iptables, nftables
from harness.system.redirect_backend import Detected
from harness.system.redirect_exclusions import Ssh
from harness.system.redirect_table import BackendKind, TableState
from tests.snapshots import snapshot
from tests.unit import test_dns_reconciler as dns

BYTES, FILES = "size=16k", "nr_inodes=2"
"""Of which there are no more: the file system's own folder and what fills it take all."""


@pytest.fixture(name="full")
def full_fixture(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder on a file system of its own, with nothing free."""
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{request.param},mode=755", "tmpfs", str(folder)], check=True)
    try:
        subprocess.run(["dd", "if=/dev/zero", f"of={folder}/filler", "bs=4k", "count=9"], check=False, capture_output=True)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def names(full: Path) -> Condition:
    reconciler, observed = dns.found(full.parent, State.STOPPED)
    reconciler._conf = full / "dnsmasq.conf"
    with pytest.raises(UnwritableError):
        asyncio.run(reconciler.apply(Start("/usr/sbin/dnsmasq", "port=53\n", User(2105, 2105))))
    return reconciler.condition(dns.DEFAULT, observed)


def rules(full: Path) -> Condition:
    """Its lock takes no bytes."""
    backends = Detected(iptables.Iptables(), nftables.Nftables(), "chosen by a test")
    reconciler = redirect.Redirect(backends, full / "redirect.lock")
    with pytest.raises(UnwritableError):
        asyncio.run(reconciler.apply(redirect.Remove(BackendKind.IPTABLES, "")))
    return reconciler.condition(None, redirect.Observed(dict.fromkeys(BackendKind, TableState(present=False)), Ssh(())))


def metrics(full: Path) -> Found | None:
    exporter = Exporter(SystemClock())
    asyncio.run(exporter.export(schema.Metrics(listen=None, textfile=str(full / "mesh.prom")), snapshot()))
    return exporter.fault


Part = Callable[[Path], Condition | Found | None]
PARTS: tuple[tuple[Part, str], ...] = ((names, BYTES), (names, FILES), (rules, FILES), (metrics, BYTES), (metrics, FILES))


@pytest.mark.parametrize(("part", "full"), PARTS, ids=lambda one: getattr(one, "__name__", one), indirect=["full"])
def test_a_full_disk_is_what_is_said(full: Path, part: Part) -> None:
    said = part(full)
    assert said is not None and said.problem is not None and said.problem.code == "disk-full"
    text = said.message if isinstance(said, Condition) else str(said)
    assert "cannot be written: No space left on device" in text
    assert f"`df -h {full}`" in said.hint({})
