"""Identity by a real SPIRE that somebody else runs: its server in mode `agent`, its agent in mode `external`."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.mesh import openssl
from tests.spire_support import (
    ID,
    MISSING,
    PROXY_UID,
    SPIRE,
    Machine,
    Remote,
    vm_fixture,  # noqa: F401
)

pytestmark = [pytest.mark.root, pytest.mark.skipif(not SPIRE, reason=MISSING)]


@pytest.fixture
def remote(vm: Machine) -> Remote:
    found = Remote(vm)
    found.start()
    return found


def test_mode_agent_by_key_pair(vm: Machine, remote: Remote) -> None:
    remote.entry()
    vm.configure("agent", identity={"agent": {"server_address": remote.address, **remote.pair}})
    vm.start()
    vm.ready()
    assert vm.pid("spire-server") is None
    assert ID in vm.fetch(PROXY_UID)
    shutil.rmtree(vm.state)
    before = vm.pid("spire-agent")
    vm.kill("spire-agent")
    vm.wait_replaced("spire-agent", before)
    vm.ready()
    assert vm.vm.stop("harness") == 0


def test_mode_agent_by_token_which_is_seen_by_nobody_and_may_be_replaced(vm: Machine, remote: Remote) -> None:
    token, file = remote.token(), vm.vm.folder / "token"
    remote.token_entry()
    file.write_text(token)
    file.chmod(0o600)
    vm.configure("agent", identity={"agent": {"server_address": remote.address, "join_token_file": str(file)}})
    vm.start()
    vm.ready()
    pid = vm.pid("spire-agent")
    assert token not in Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text() + vm.log()
    vm.kill("spire-agent")
    vm.wait_replaced("spire-agent", pid)
    vm.ready()
    # The data goes: the token has been used, and SPIRE alone would be stuck.
    assert vm.vm.stop("harness") == 0
    shutil.rmtree(vm.state)
    vm.start(controller=False)
    message = vm.wait_problem("spire-not-attested")
    assert "join token" in message
    file.write_text(remote.token())
    vm.ready()


def test_mode_agent_with_a_server_that_is_away_at_first_and_later(vm: Machine) -> None:
    remote = Remote(vm)
    vm.configure("agent", identity={"agent": {"server_address": remote.address, **remote.pair}})
    vm.start()
    assert "connection refused" in vm.wait_problem("spire-not-attested")
    remote.start()
    remote.entry()
    vm.ready()
    vm.vm.stop("remote", signal.SIGKILL)
    time.sleep(3)
    assert vm.vm.status()["phase"] == "Ready", "the SVID is good for long"
    remote.start()


def test_mode_agent_never_trusts_a_server_of_other_anchors(vm: Machine, remote: Remote) -> None:
    wrong = vm.vm.folder / "wrong.crt"
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"),
        *("-subj", "/CN=root.linkerd.cluster.local", "-keyout", f"{vm.vm.folder}/wrong.key", "-out", str(wrong)),
    )
    remote.entry()
    agent = {"server_address": remote.address, **remote.pair}
    vm.configure("agent", identity={"agent": agent}, sections={"controller": {"trust_anchors": str(wrong)}})
    vm.start()
    assert "certificate signed by unknown authority" in vm.wait_problem("spire-not-attested")
    assert not (vm.vm.folder / "run" / "workload-api" / "api.sock").exists()


def test_mode_external_on_an_agent_that_somebody_else_runs(vm: Machine, remote: Remote) -> None:
    """Its socket comes late, vanishes and comes back; a proxy that dies meanwhile is there again when the socket is."""
    remote.entry()
    socket = remote.agent()
    vm.configure("external", identity={"socket": f"unix:{socket}"})
    vm.start()
    vm.wait_problem("identity-socket-missing")
    remote.start_agent()
    vm.ready()
    assert ID in vm.fetch(PROXY_UID, socket)
    assert (vm.pid("spire-server"), vm.pid("spire-agent")) == (None, None), "none of the harness's own"
    proxy = vm.pid("proxy")
    vm.vm.stop("agent", signal.SIGKILL)
    socket.unlink()
    vm.wait_problem("identity-socket-missing")
    assert (vm.vm.condition("Proxy")["status"], vm.pid("proxy")) == ("True", proxy), "traffic goes on"
    vm.kill("proxy")
    vm.vm.wait(lambda: vm.vm.condition("Proxy")["message"] == "starts when the Workload API answers")
    remote.start_agent()
    vm.ready()
    assert vm.log().count("it would not try again") == 0
    assert vm.vm.stop("harness") == 0
    assert vm.vm.processes["agent"].poll() is None, "somebody else's goes on"
