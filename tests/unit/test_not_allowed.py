"""What may not be read is never taken for what is not there.

Each reader is asked by a root without any capability, as in a unit with a sandbox, of what belongs to another user:
a file of mode 0600, and a folder of mode 0700. Each names it, or what it makes of it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mesh import ENVIRONMENT, ROOT

READERS = {
    "text": "files.text(there)",
    "line": "files.read_line(there)",
    "bytes": "files.bounded(there)",
    "a lock in a closed folder": "files.is_locked(closed / 'file')",
    "a file that is replaced": "print(closed, files.identity(closed / 'file'))",
    "the proxy in use": "Store(closed).in_use()",
    "text in a closed folder": "files.text(closed / 'file')",
    "names in a closed folder": "paths.matches(closed, '*.yaml')",
    "resolv.conf": "asyncio.run(ResolvConf(there, there).observe())",
    "name servers": "dns_query.name_servers(there)",
    "the registration": "show(KeptName(there).fault)",
    "the registration that a new secret would replace": "KeptName(there).begin()",
    "SSH's file": "show(redirect_exclusions.configured_ssh_ports(root)[1])",
    "SSH's folder": "show(redirect_exclusions.configured_ssh_ports(other)[1])",
    "drop-ins": "show(load.sources(Paths(config=etc), {})[1])",
    "what the rules leave out": "show(of_redirect._taken_for_ssh(spec(inbound=Inbound.ALL), Ssh((), (), unread)))",
}
PROGRAM = """
import asyncio, sys
from pathlib import Path
from harness import paths
from harness.config import load
from harness.errors import HarnessError
from harness.paths import Paths
from harness.reconcilers import redirect as of_redirect
from harness.reconcilers.dns_resolv_conf import ResolvConf
from harness.reconcilers.kept_name import KeptName
from harness.system import dns_query, files, redirect_exclusions
from harness.system.proxy_store import Store
from harness.system.redirect_exclusions import Ssh
from harness.rules import Inbound
from tests.redirect_support import spec

folder = Path(sys.argv[1])
there, closed, etc = folder / "there", folder / "closed", folder / "etc"
root, other = folder / "root", folder / "other"
unread = redirect_exclusions.configured_ssh_ports(root)[1]


def show(found):
    print(found)


try:
    found = READER
except HarnessError as error:
    print(error.message)
"""


@pytest.fixture(name="another")
def another_fixture(tmp_path: Path) -> Path:
    """What belongs to another user."""
    tmp_path.chmod(0o755)
    (tmp_path / "closed").mkdir()
    (tmp_path / "etc/harness.d").mkdir(parents=True)
    for name in ("root", "other"):
        (tmp_path / name / "etc/ssh/sshd_config.d").mkdir(parents=True)
    files = ("there", "closed/file", "closed/x.yaml", "etc/harness.d/50-x.yaml", "root/etc/ssh/sshd_config.d/x.conf")
    for name in files:
        (tmp_path / name).write_text("Port 2222\n")
        os.chown(tmp_path / name, 65534, 65534)
        (tmp_path / name).chmod(0o600)
    for name in ("closed", "etc/harness.d", "other/etc/ssh/sshd_config.d"):
        os.chown(tmp_path / name, 65534, 65534)
        (tmp_path / name).chmod(0o700)
    return tmp_path


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
@pytest.mark.parametrize("reader", READERS)
def test_what_may_not_be_read_is_named(another: Path, reader: str) -> None:
    program = PROGRAM.replace("READER", READERS[reader])
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
    argv = (*bare, sys.executable, "-s", "-c", program, str(another))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT, env=ENVIRONMENT, timeout=60)
    assert not done.returncode, done.stderr
    assert str(another) in done.stdout and "Permission denied" in done.stdout, done.stdout


BROAD = {"OSError", "PermissionError", "EnvironmentError", "IOError"}
QUIET = {
    "harness/container_cli.py": 1,
    "harness/container_workload.py": 1,
    "harness/daemon/bugs.py": 1,
    "harness/daemon/export.py": 1,
    "harness/daemon/needs.py": 1,
    "harness/daemon/waiting.py": 1,
    "harness/denied.py": 2,
    "harness/join_cli.py": 2,
    "harness/leave_cli.py": 1,
    "harness/system/exec_try.py": 1,
    "harness/system/files.py": 4,
    "harness/system/iptables_child.py": 1,
    "harness/system/kernel_events.py": 1,
    "harness/system/metrics_server.py": 2,
    "harness/system/path_mtu.py": 1,
    "harness/system/process.py": 1,
    "harness/system/procfs.py": 2,
    "harness/system/proxy_binary.py": 1,
    "harness/system/proxy_store.py": 1,
    "harness/system/redirect_selftest.py": 2,
    "harness/system/snapshot_reader.py": 2,
    "harness/system/spire.py": 1,
    "harness/system/spire_archive.py": 1,
    "harness/system/ssh_daemons.py": 5,
    "harness/system/systemd.py": 1,
    "harness/system/tcp_sockets.py": 1,
    "harness/system/workload_api_server.py": 1,
    "harness/times.py": 1,
    "harness/system/netlink.py": 1,  # a link that has just gone
    "controller/door.py": 1,
    "controller/fleet_page.py": 1,
    "controller/upkeep.py": 1,
}
"""Where an error of the system is passed over, and how often in each file. Before you raise a number, look at the new place: does
it report what it cannot read?"""


def passed_over(path: Path) -> int:
    """Handlers of OSError that neither raise, nor use the error, nor say that it is not known; and suppress(OSError)."""
    count = 0
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            count += bool(BROAD & {ast.unparse(argument) for argument in node.args})
        if not isinstance(node, ast.ExceptHandler) or node.type is None:
            continue
        caught = {ast.unparse(one) for one in (node.type.elts if isinstance(node.type, ast.Tuple) else [node.type])}
        inner = [one for line in node.body for one in ast.walk(line)]
        used = node.name is not None and any(isinstance(one, ast.Name) and one.id == node.name for one in inner)
        count += bool(BROAD & caught) and not used and not any(isinstance(one, ast.Raise) for one in inner)
    return count


def test_where_an_error_is_passed_over_was_looked_at() -> None:
    paths = [path for package in ("harness", "controller") for path in sorted((ROOT / package).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)): count for path in paths if (count := passed_over(path))}
    assert found == QUIET
