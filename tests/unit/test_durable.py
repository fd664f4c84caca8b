"""What must survive a loss of power is on the disk, and what the power, a killed writer or a local user has left is survived."""

from __future__ import annotations

import ast
import asyncio
import os
from pathlib import Path

import pytest

from harness.clock import SystemClock
from harness.config import schema
from harness.daemon import in_force, machine
from harness.daemon.export import Exporter
from harness.paths import Paths
from harness.reconcilers.kept_name import KeptName
from harness.system import files
from tests import builders
from tests.mesh import ROOT
from tests.snapshots import snapshot

NOT_DURABLE = {
    "harness/container.py": 2,  # a container's own files: they go with it
    "harness/daemon/bugs.py": 1,  # below /run, as all that follow
    "harness/daemon/export.py": 1,
    "harness/daemon/progress.py": 1,
    "harness/daemon/publish.py": 3,
    "harness/daemon/waiting.py": 1,
    "harness/join_cli.py": 2,  # the configuration in a scratch folder, for the checks before a join
    "harness/reconcilers/dns.py": 1,
    "harness/reconcilers/proxy.py": 1,
    "harness/system/iptables.py": 1,
    "harness/system/process.py": 1,
    "harness/system/proxy_store.py": 1,  # which syncs all of a version at once, before it gets its name
    "harness/system/spire.py": 1,  # configuration that each start writes
    "harness/system/units.py": 1,  # what another program copies
}


def test_what_is_written_without_waiting_for_the_disk_was_looked_at() -> None:
    found: dict[str, int] = {}
    for path in sorted((ROOT / "harness").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            words = [ast.unparse(part) for part in (node.func, *node.args)]  # also of asyncio.to_thread(files.write, …)
            if not {"files.write", "files.write_json"} & set(words[:2]):
                continue
            if not any(keyword.arg == "durable" for keyword in node.keywords):
                name = str(path.relative_to(ROOT))
                found[name] = found.get(name, 0) + 1
    assert found == NOT_DURABLE


@pytest.mark.parametrize("durable", [False, True])
def test_it_is_whole_in_a_new_folder(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "x"
    files.write(path, "text", mode=0o600, durable=durable)
    assert path.read_text() == "text" and path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["x"]


def test_what_a_killed_writer_has_left_goes(tmp_path: Path) -> None:
    left, writing, others = (tmp_path / name for name in (".x.0123456789abcdef", ".x.fedcba9876543210", ".x.bak"))
    for path in (left, writing, others):
        path.touch()
    for path in (left, others):
        os.utime(path, (1.0, 1.0))
    files.write(tmp_path / "x", "text", mode=0o600)
    assert sorted(one.name for one in tmp_path.iterdir()) == [others.name, writing.name, "x"], "another process may be writing"


@pytest.mark.parametrize("name", ["mesh.prom", ".mesh.prom.PID", ".mesh.prom.0123456789abcdef"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_stands_in_the_folder_of_the_metrics_holds_nothing_up(tmp_path: Path, name: str, kind: str) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    there = folder / name.replace("PID", str(os.getpid()))
    if kind == "pipe":
        os.mkfifo(there)
    else:
        there.symlink_to(victim)
    exporter = Exporter(SystemClock())
    asyncio.run(exporter.export(schema.Metrics(listen=None, textfile=str(folder / "mesh.prom")), snapshot()))
    assert exporter.fault is None and victim.read_text() == "as it was"
    assert "meshexp_build_info" in (folder / "mesh.prom").read_text() and not (folder / "mesh.prom").is_symlink()


@pytest.mark.parametrize("content", [b"", b"\n", bytes(64), b"\xff\xfe", b"two\nlines"])
def test_an_instance_id_of_no_use_counts_as_absent_and_is_kept_once(tmp_path: Path, content: bytes) -> None:
    """A loss of power soon after the first start leaves it empty, or full of zeros."""
    kept, aside = tmp_path / "instance-id", tmp_path / "instance-id.unusable"
    kept.write_bytes(content)
    fresh, fault = machine.instance_id(None, kept, False, "host")
    assert len(fresh) == 32 and fault is None and aside.read_bytes() == content
    assert machine.instance_id(None, kept, False, "host") == (fresh, None)
    kept.write_bytes(b"")
    machine.instance_id(None, kept, False, "host")
    assert aside.read_bytes() == content, "the first one stays"


@pytest.mark.parametrize("content", [b"", b'{"secret": "ab', b"[]", b'{"secret": {}, "name": 7}', bytes(64)])
def test_a_registration_of_no_use_counts_as_absent_and_is_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "registration.json"
    path.write_bytes(content)
    kept = KeptName(path)
    assert (kept.secret, kept.name, kept.copy, kept.fault) == ("", "", "", None)
    assert path.read_bytes() == content, "a look changes nothing"
    kept.begin()
    assert (tmp_path / "registration.json.unusable").read_bytes() == content
    assert KeptName(path).secret == kept.secret != ""


def test_a_kept_configuration_of_no_use_is_kept_aside(tmp_path: Path) -> None:
    where = Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run")
    where.state.mkdir()
    where.in_force.write_bytes(b"")
    assert in_force.kept(where, "the files are wrong") is None
    asyncio.run(in_force.keep(where, in_force.InForce(builders.config(), {"a": 1}), "", None))
    assert files.read_json(where.in_force)["values"] == {"a": 1}
    assert where.in_force.with_name("configuration.json.unusable").read_bytes() == b""
