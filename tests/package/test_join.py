"""From a bare Debian with the package to a member by one command, and what a join that fails leaves: on real systemd."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh import Mesh, on_path
from tests.netns.test_join import invite
from tests.package.machine import UNIT, Machine, machine
from tests.package.root import layered
from tests.spire_support import MISSING, SPIRE

pytestmark = pytest.mark.skipif(not SPIRE, reason=MISSING)
PROGRAMS = ("spire-server", "spire-agent")


@pytest.fixture
def vm(installed: tuple[Path, ...]) -> Iterator[Machine]:
    with layered(*installed) as root, machine(root) as found:
        yield found


def newcomer(vm: Machine) -> str:
    """Booted, with an invitation; its path there. The proxy is the stand-in, as `meshexp proxy install` cannot make that."""
    vm.configure()
    vm.file("/etc/meshexp/harness.yaml").write_text("proxy: {path: /opt/development-proxy, shutdown_grace: 2s}\n")
    vm.boot()
    return vm.put(invite(Mesh(vm.mesh.folder, vm.mesh.node, vm.mesh.node)))


def spire_release(vm: Machine) -> str:
    """As the project publishes it: an archive; its path there."""
    archive = vm.mesh.folder / "spire-1.0.0-linux-amd64-musl.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for name in PROGRAMS:
            tar.add(str(on_path(name)), f"spire-1.0.0/bin/{name}")
    return vm.put(archive)


def described(vm: Machine) -> dict[str, str]:
    shown = vm.show("ActiveState", "UnitFileState")
    files = vm.run("find", "/etc/meshexp", "/var/lib/meshexp", "-printf", "%p %m %l\n")
    return {**shown, "files": "\n".join(sorted(files.splitlines()))}


def test_one_command_after_the_package(vm: Machine) -> None:
    file = newcomer(vm)
    before, host = described(vm), vm.dump()
    said = vm.run("meshexp", "join", file, "--spire", spire_release(vm))
    assert re.search(r"√ start the harness \(\d+\.\d\d s\): meshexp-harness.service is enabled and runs", said), said
    assert vm.status()["phase"] == "Ready"
    vm.run("meshexp", "check", "--proxy")
    vm.reboot()
    vm.wait_ready()
    assert "left" in json.loads(vm.run("meshexp", "leave", "--purge", "-o", "json"))
    after = described(vm)
    assert after["files"] == before["files"]
    assert (after["ActiveState"], after["UnitFileState"]) == ("inactive", "disabled")
    assert vm.dump() == host


def test_a_join_that_is_refused_leaves_the_unit_as_it_was(vm: Machine) -> None:
    file = newcomer(vm)
    vm.mesh.group(admission={"requireInvitation": True})  # which knows none
    before, host = described(vm), vm.dump()
    said = vm.run("meshexp", "join", file, "--spire", spire_release(vm), check=False)
    assert not vm.file("/opt/spire").exists()
    assert "invitation-invalid" in said and "undo: stop the harness" in said, said
    assert described(vm) == before
    assert vm.status()["phase"] == "Waiting" and vm.show("UnitFileState", unit=UNIT)["UnitFileState"] == "enabled"
    assert vm.dump() == host


def test_leaving_without_ever_having_joined_changes_nothing(vm: Machine) -> None:
    """The harness goes on waiting, also after a boot."""
    newcomer(vm)
    before = described(vm)
    assert before["ActiveState"] == "active" and before["UnitFileState"] == "enabled"
    for words in ((), ("--purge",)):
        said = vm.run("meshexp", "leave", *words)
        assert "√ nothing is configured here" in said and "nothing was changed" in said
        assert described(vm) == before
    shown = json.loads(vm.run("meshexp", "leave", "-o", "json"))
    assert shown["left"] is False and [step["name"] for step in shown["steps"]] == ["nothing is configured here"]
