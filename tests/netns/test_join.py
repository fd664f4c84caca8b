"""From an invitation to a member by one command, and back; what is wrong leaves no trace. On real SPIRE."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import tickets
from controller.peer import spki_sha256
from demo import host_state
from harness import ca
from harness.decode import encode
from harness.invitation import VERSION, Invitation, LocalIdentity
from harness.messages import PodRoute
from harness.values import parse_address, parse_host_port, parse_network, parse_spiffe_id
from tests.check.lab import security_group
from tests.mesh import IDENTITY, NODE, PROXY_UID, TRUST_DOMAIN, VM, Mesh, mesh
from tests.spire_support import AGENT_UID, MISSING, SERVER_UID, SPIRE

pytestmark = pytest.mark.skipif(not SPIRE, reason=MISSING)
TOKEN = "let-me-in"
SPIFFE_ID = parse_spiffe_id(f"spiffe://{TRUST_DOMAIN}/face")


@contextlib.contextmanager
def machine() -> Iterator[Mesh]:
    """A machine with the package, as it were: the group takes machines by invitation only, and nothing is configured."""
    with mesh() as found:
        base = {
            "identity": {"spire": {"server_user": str(SERVER_UID), "agent_user": str(AGENT_UID)}},
            "proxy": {"user": PROXY_UID, "path": str(found.folder / "development-proxy"), "shutdown_grace": "1s"},
            "log": {"format": "json"},
        }
        (found.folder / "etc/harness.yaml").write_text(yaml.safe_dump(base))
        (found.folder / "etc/harness.d").mkdir()
        yield found


@pytest.fixture(name="vm")
def vm_fixture() -> Iterator[Mesh]:
    with machine() as found:
        yield found


def invite(vm: Mesh, expires: float = 3600.0, **changes: Any) -> Path:
    """The invitation's file; the group knows its token."""
    certs = vm.folder / "certs"
    anchor, key = ca.load_anchor(certs / "ca.crt", certs / "ca.key"), ca.new_key()
    certificate = ca.issue(anchor, "vm", key.public_key(), 30, datetime.datetime.now(datetime.UTC))
    invitation = Invitation(
        VERSION, TOKEN, time.time() + expires, parse_host_port(f"{NODE}:8081"), IDENTITY, (certs / "ca.crt").read_text(), "face",
        "faces", SPIFFE_ID, (PodRoute(parse_network("10.42.0.0/24"), parse_address(NODE)),), (parse_network("10.43.0.0/16"),),
        local=LocalIdentity(ca.certificate_pem(certificate), ca.key_pem(key)),
    )  # fmt: skip
    ticket = tickets.ticket(TOKEN, time.time() + 3600, (SPIFFE_ID,), spki_sha256(certificate))
    vm.group(admission={"requireInvitation": True})
    manifest = vm.folder / "groups/face.yaml"
    group = yaml.safe_load(manifest.read_text())
    group["metadata"]["annotations"] = dict([ticket.annotation])
    group["apiVersion"] = "workload.meshexp.io/v1alpha1"
    manifest.write_text(yaml.safe_dump(group))
    file = vm.folder / "one.invitation"
    file.write_text(json.dumps(encode(invitation) | changes))
    file.chmod(0o600)
    return file


@contextlib.contextmanager
def waiting(vm: Mesh) -> Iterator[None]:
    """The daemon under a supervisor, without a configuration."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(vm.folder / "notify"))
        threading.Thread(target=_drain, args=(supervisor,), daemon=True).start()
        argv = (sys.executable, "-s", "-m", "harness", "run")
        vm.start("harness", vm.vm, *argv, env={"NOTIFY_SOCKET": str(vm.folder / "notify")})
        vm.wait(lambda: vm.status().get("phase") == "Waiting")
        yield


def _drain(supervisor: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while supervisor.recv(4096):
            pass


def files(vm: Mesh) -> dict[str, tuple[int, str]]:
    """What is configured and kept: each file with mode and content."""
    found = {}
    for folder in ("etc", "state"):
        for path in (vm.folder / folder).rglob("*"):
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path.relative_to(vm.folder))] = (path.stat().st_mode & 0o777, content)
    return found


def test_one_command_to_a_member_and_one_back(vm: Mesh) -> None:
    file = invite(vm)
    vm.start_controller()
    host_state.dump(vm.vm.enter)
    host, before = host_state.dump(vm.vm.enter), files(vm)
    with waiting(vm):
        done = vm.meshexp("join", str(file), "--wait", "60")
        assert done.returncode == 0, done.stdout + done.stderr + vm.logs()
        lines = done.stdout.splitlines()
        assert lines[0].startswith("√ read the invitation (") and "faces/face as spiffe://" in lines[0]
        assert any(line.startswith("√ Registration (") for line in lines) and lines[-1].endswith(" s")
        reached = next(line for line in lines if "try the way from peers" in line)
        assert reached.startswith("√ ") and f"the controller connected from {NODE} to {VM} port 4143" in reached
        modes = {name: mode for name, (mode, _) in files(vm).items()}
        secret = {"etc/invitation", "etc/spire/ca.key", "state/registration.json"}
        assert {name for name in secret if modes[name] == 0o600} == secret
        assert modes["etc/harness.d/50-join.yaml"] == modes["etc/trust-anchors.pem"] == 0o644
        assert "anchors-expiring" in done.stdout and "meshexp-join-" not in done.stdout, "a folder that is gone again"
        assert vm.status()["phase"] == "Ready" and vm.status()["workload"]["name"].startswith("face-")
        assert vm.meshexp("join", str(file)).returncode == 0, "once more changes nothing"
        assert vm.meshexp("leave", "--purge").returncode == 0
        assert vm.processes["harness"].wait(60) == 0
    assert "workload deleted" in (vm.folder / "controller.log").read_text()
    assert files(vm) == before
    assert host_state.differences(host, host_state.dump(vm.vm.enter)) == []


def test_a_machine_that_peers_do_not_reach_is_told_so_and_joins(vm: Mesh) -> None:
    file = invite(vm)
    vm.start_controller()
    security_group(vm, "drop")
    with waiting(vm):
        done = vm.meshexp("join", str(file), "--wait", "60")
        assert done.returncode == 0, done.stdout + done.stderr + vm.logs()
        reached = next(line for line in done.stdout.splitlines() if "try the way from peers" in line)
        assert reached.startswith("‼ ") and "no connection within" in reached and "security group" in reached
        assert vm.status()["phase"] == "Ready"


def test_a_member_stays_one_when_the_look_from_outside_is_interrupted(vm: Mesh) -> None:
    """It only tells something; the join has been made."""
    file = invite(vm)
    vm.start_controller()
    security_group(vm, "counter drop")
    with waiting(vm):
        argv = [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "join", str(file), "--wait", "60"]
        joining = subprocess.Popen(argv, env=vm.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        vm.wait(lambda: "counter packets" in (said := vm.node.run("nft", "list", "table", "inet", "cloud"))
                and "counter packets 0 " not in said)  # fmt: skip
        joining.terminate()
        said, errors = joining.communicate(timeout=60)
        assert joining.returncode == 0, said + errors
        assert "try the way from peers" in said and "interrupted" in said and "undo" not in said
        assert vm.status()["phase"] == "Ready"


def test_a_leave_does_not_say_that_a_registration_is_gone_that_cannot_be_read(vm: Mesh) -> None:
    (vm.folder / "state/registration.json").mkdir(parents=True)
    done = vm.meshexp("leave")
    line = next(line for line in done.stdout.splitlines() if "see that the registration is gone" in line)
    assert line.startswith("‼ ") and f"{vm.folder}/state/registration.json cannot be read" in line, done.stdout + done.stderr


def test_another_workload_of_the_machine_joins_into_folders_of_its_own(vm: Mesh) -> None:
    file, own = invite(vm), vm.folder / "etc/instances/api"
    vm.start_controller()
    own.mkdir(parents=True)
    first = yaml.safe_load((vm.folder / "etc/harness.yaml").read_text())
    first["workload"] = {"group": "smiley", "namespace": "faces"}
    (vm.folder / "etc/harness.yaml").write_text(yaml.safe_dump(first))
    ports = {"inbound_port": 4243, "outbound_port": 4240, "admin_port": 4291}
    mine = {**first, "workload": {}, "proxy": {**first["proxy"], **ports}, "metrics": {"listen": "127.0.0.1:4292"}}
    (own / "harness.yaml").write_text(yaml.safe_dump(mine))
    before = files(vm)
    refused = vm.meshexp("join", "--instance", "api", str(file))
    assert refused.returncode == 69 and files(vm) == before
    assert "workload.users: must not be empty" in refused.stderr and "proxy.user: '2102' is proxy.user of" in refused.stderr
    mine |= {"workload": {"users": ["2301"]}, "proxy": {**mine["proxy"], "user": "2202"}}
    (own / "harness.yaml").write_text(yaml.safe_dump(mine))
    before = files(vm)
    done = vm.meshexp("join", "--instance", "api", str(file))
    assert done.returncode == 0 and "run `meshexp run --instance api`" in done.stdout, done.stdout + done.stderr
    new = {"invitation", "trust-anchors.pem", "spire", "spire/ca.crt", "spire/ca.key", "harness.d", "harness.d/50-join.yaml"}
    assert files(vm).keys() - before.keys() == {f"etc/instances/api/{name}" for name in new}
    assert vm.meshexp("config", "check", "--instance", "api").returncode == 0
    assert vm.meshexp("leave", "--instance", "api", "--purge").returncode == 0
    assert files(vm) == before


def test_leave_keeps_the_configuration_unless_told_and_the_machine_comes_back(vm: Mesh) -> None:
    file = invite(vm)
    vm.start_controller()
    assert "run `meshexp run`" in vm.meshexp("join", str(file)).stdout
    vm.start_daemon()
    vm.wait_ready()
    name = vm.status()["workload"]["name"]
    done = vm.meshexp("leave", "-o", "json")
    assert json.loads(done.stdout)["left"] is True and vm.processes["harness"].wait(60) == 0, done.stderr
    assert (vm.folder / "etc/invitation").exists() and not (vm.folder / "state/registration.json").exists()
    vm.start_daemon()
    vm.wait_ready()
    assert vm.status()["workload"]["name"] == name


def refuses(vm: Mesh, words: str, *arguments: str, code: int) -> None:
    """And nothing has changed."""
    before = files(vm)
    done = vm.meshexp("join", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr and "PRIVATE" not in done.stdout + done.stderr
    assert files(vm) == before


def test_what_is_wrong_with_an_invitation_is_said_and_nothing_written(vm: Mesh) -> None:
    refuses(vm, "has expired", str(invite(vm, expires=-1)), code=64)
    refuses(vm, "no invitation that this program understands", str(invite(vm, version=9)), code=1)
    refuses(vm, "it is not JSON", str(vm.folder / "development-proxy"), code=1)
    refuses(vm, "No such file", "/nonexistent", code=69)
    refuses(vm, "by https only", "http://127.0.0.1/one", code=64)


def test_a_check_that_fails_stops_it_before_anything_changes(vm: Mesh) -> None:
    file = invite(vm)
    vm.start("other", vm.vm, sys.executable, "-c", "import socket, time; s = socket.create_server(('', 4143)); time.sleep(60)")
    vm.wait(lambda: ":4143" in vm.vm.run("ss", "-ltnH"))
    refuses(vm, "proxy-port-taken", str(file), code=69)


def test_never_over_another_configuration_unless_told(vm: Mesh) -> None:
    file = invite(vm)
    vm.start_controller()
    harness_yaml = vm.folder / "etc/harness.yaml"
    harness_yaml.write_text(harness_yaml.read_text() + "workload: {group: smiley, namespace: faces}\n")
    refuses(vm, "workload.group in the configuration/harness.yaml", str(file), code=64)
    assert vm.meshexp("join", str(file), "--force").returncode == 0
    assert yaml.safe_load((vm.folder / "etc/harness.d/50-join.yaml").read_text())["workload"]["group"] == "face"
    last = vm.folder / "etc/harness.d/90.yaml"
    last.write_text("workload: {group: smiley}\n")
    refuses(vm, "override the invitation's: workload.group", str(file), "--force", code=64)


def test_a_join_that_the_controller_refuses_is_taken_back(vm: Mesh) -> None:
    file = invite(vm)
    vm.group(admission={"requireInvitation": True})  # and it knows of no invitation
    vm.start_controller()
    host_state.dump(vm.vm.enter)
    host, before = host_state.dump(vm.vm.enter), files(vm)
    with waiting(vm):
        done = vm.meshexp("join", str(file), "-o", "json", "--wait", "60")
        found = json.loads(done.stdout)
        assert done.returncode == found["error"]["exit_code"] == 69 and found["joined"] is False
        assert "invitation-invalid" in found["error"]["message"]
        assert [step["name"] for step in found["steps"]][-3:] == [
            f"undo: {vm.folder}/etc/invitation", f"undo: {vm.folder}/etc/trust-anchors.pem", "undo: what the harness kept"
        ]  # fmt: skip
        assert vm.processes["harness"].wait(60) == 0
    assert files(vm) == before
    assert host_state.differences(host, host_state.dump(vm.vm.enter)) == []


@pytest.mark.parametrize("ended", ["by its own time", "by a signal"])
def test_a_join_that_does_not_end_well_is_taken_back(vm: Mesh, ended: str) -> None:
    file = invite(vm)  # and no controller: it may come any time
    host_state.dump(vm.vm.enter)
    host, before = host_state.dump(vm.vm.enter), files(vm)
    with waiting(vm):
        seconds = "3" if ended == "by its own time" else "60"
        argv = [*vm.vm.enter, sys.executable, "-s", "-m", "harness", "join", str(file), "--wait", seconds]
        joining = subprocess.Popen(argv, env=vm.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if ended == "by a signal":
            vm.wait(lambda: any(c["name"] == "Routes" and c["status"] == "True" for c in vm.status().get("conditions", [])))
            joining.terminate()
        said, errors = joining.communicate(timeout=60)
        assert joining.returncode == 75, said + errors
        assert "undo: stop the harness" in said
        assert "not a member after 3 s: " in errors if ended == "by its own time" else "interrupted" in errors
        # On a busy machine it may be told to end before it listens to signals.
        assert vm.processes["harness"].wait(60) in (0, -signal.SIGTERM)
    assert files(vm) == before
    assert host_state.differences(host, host_state.dump(vm.vm.enter)) == []
