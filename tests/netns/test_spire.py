"""Identity by a real SPIRE that the daemon runs: the join, what belongs to whom, and that every fault heals by itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh import on_path
from tests.spire_support import (
    AGENT_UID,
    ID,
    MISSING,
    PROXY_UID,
    SERVER_UID,
    SPIRE,
    Machine,
    joined_fixture,  # noqa: F401
    vm_fixture,  # noqa: F401
)

pytestmark = [pytest.mark.root, pytest.mark.skipif(not SPIRE, reason=MISSING)]
PROXY = on_path("linkerd2-proxy")


def status_lines(pid: int | None) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_it_joins_and_everything_belongs_to_whom_it_should(joined: Machine) -> None:
    assert ID in joined.fetch(PROXY_UID)
    for uid in (2109, 0):
        assert "no identity issued" in joined.fetch(uid), "the proxy's uid alone is selected"
    for name, uid in (("spire-server", SERVER_UID), ("spire-agent", AGENT_UID)):
        status = status_lines(joined.pid(name))
        assert status["Uid"].split() == [str(uid)] * 4
        assert status["Groups"].strip() == ""
        assert (int(status["CapEff"], 16), int(status["CapBnd"], 16), status["NoNewPrivs"].strip()) == (0, 0, "1")
    run = joined.vm.folder / "run"
    for uid in (PROXY_UID, AGENT_UID, 2109):
        for secret in ("spire/admin/api.sock", "spire/server/upstream.key", "spire/agent/node.key"):
            probe = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "test", "-r", str(run / secret)]
            readable = subprocess.run(probe, check=False).returncode == 0
            inside = (
                subprocess.run([*probe[:-3], "test", "-x", str(run / secret.rpartition("/")[0])], check=False).returncode == 0
            )
            assert inside is (uid == AGENT_UID and secret == "spire/agent/node.key"), (uid, secret)
            assert readable is (uid == AGENT_UID and secret == "spire/agent/node.key"), (uid, secret)
    text = joined.log() + str(joined.vm.status())
    assert "PRIVATE KEY" not in text
    assert joined.vm.stop("harness") == 0
    assert not (run / "spire").exists(), "the copy of the key goes with the daemon"


@pytest.mark.parametrize("child", ["spire-server", "spire-agent"])
def test_killed_it_comes_back_and_the_proxy_runs_on(joined: Machine, child: str) -> None:
    before, proxy = joined.pid(child), joined.pid("proxy")
    joined.kill(child)
    joined.wait_replaced(child, before)
    joined.ready()
    assert joined.pid("proxy") == proxy
    joined.vm.wait(lambda: ID in joined.fetch(PROXY_UID))


@pytest.mark.parametrize("child", ["spire-server", "spire-agent"])
def test_killed_at_each_moment_of_the_join(vm: Machine, child: str) -> None:
    """From the very start of the program, in steps of a few hundredths, on a cold and then on a warm data directory."""
    vm.vm.start_controller()
    record = vm.vm.folder / "run" / "children" / f"{child}.json"
    for delay in (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3):
        vm.start(controller=False)
        deadline = time.monotonic() + 60
        while not record.exists() or '"pid"' not in record.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(delay)
        pid = int(record.read_text().partition('"pid": ')[2].partition(",")[0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        vm.ready()
        assert vm.vm.stop("harness") == 0
        if delay == 0.1:
            shutil.rmtree(vm.state)


@pytest.mark.skipif(PROXY is None, reason="linkerd2-proxy is in no registry, and not on PATH")
def test_a_proxy_whose_first_connect_fails_is_started_anew_at_once(vm: Machine) -> None:
    """As when the agent dies in that instant: linkerd2-proxy does not try again, and says that it is ready."""
    once, program = vm.vm.folder / "once", vm.vm.folder / "proxy"
    broken = "export LINKERD2_PROXY_IDENTITY_SPIRE_WORKLOAD_API_ADDRESS=unix:/nowhere"
    program.write_text(f"#!/bin/sh\nmkdir {once}/begun 2>/dev/null && {broken}\nexec {PROXY}\n")
    once.mkdir()
    os.chown(once, PROXY_UID, PROXY_UID)
    program.chmod(0o755)
    vm.configure(sections={"proxy": {"path": str(program)}})
    vm.start()
    vm.vm.wait(lambda: "it would not try again" in vm.log())
    began = time.monotonic()
    vm.ready()
    print(f"ready again after {time.monotonic() - began:.1f} s")
    assert vm.log().count("it would not try again") == 1


def test_the_agents_socket_vanishes(joined: Machine) -> None:
    before = joined.pid("spire-agent")
    (joined.vm.folder / "run" / "workload-api" / "api.sock").unlink()
    joined.vm.processes["harness"].send_signal(signal.SIGHUP)  # any reason to look; the timer is one within 15 s
    joined.wait_replaced("spire-agent", before)
    joined.ready()
    joined.vm.wait(lambda: ID in joined.fetch(PROXY_UID))


def lose(what: str, vm: Machine) -> None:
    match what:
        case "database":
            for file in vm.data("server").glob("datastore*"):
                file.unlink()
        case "server keys":
            (vm.data("server") / "keys.json").unlink()
        case "agent keys":
            (vm.data("agent") / "keys.json").unlink()
        case "agent data":
            (vm.data("agent") / "agent-data.json").unlink()
        case "everything":
            shutil.rmtree(vm.state)


@pytest.mark.parametrize("what", ["database", "server keys", "agent keys", "agent data", "everything"])
def test_lost_under_a_daemon_that_runs_and_then_killed(joined: Machine, what: str) -> None:
    lose(what, joined)
    for child in ("spire-server", "spire-agent"):
        before = joined.pid(child)
        joined.kill(child)
        joined.wait_replaced(child, before)
    joined.ready()
    joined.vm.wait(lambda: ID in joined.fetch(PROXY_UID))


@pytest.mark.parametrize("what", ["database", "server keys", "agent keys", "agent data", "everything"])
def test_lost_while_nothing_ran(joined: Machine, what: str) -> None:
    assert joined.vm.stop("harness") == 0
    lose(what, joined)
    joined.start(controller=False)
    joined.ready()
    assert ID in joined.fetch(PROXY_UID)


def test_another_servers_data_that_cannot_be_removed_changes_nothing(vm: Machine) -> None:
    """A daemon that took its own entry for another server's would start the server again and again."""
    stale = [vm.state / f"server-{number:016x}" for number in range(8)]
    try:
        for folder in stale:
            folder.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "stale", str(folder)], check=True)
        vm.start()
        vm.ready()
        assert all(folder.is_dir() for folder in stale)
        assert vm.log().count("it begins with the new entry") == 1
    finally:
        vm.vm.stop("harness")
        for folder in stale:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def test_a_month_powered_off(vm: Machine) -> None:
    """Longer than the lives of SVID, agent and SPIRE's own CA, which are 5, 5 and 35 s here."""
    vm.configure(svid_ttl="5s")
    vm.start()
    vm.vm.wait(lambda: vm.vm.condition("Identity").get("status") == "True")
    vm.vm.stop("harness", signal.SIGKILL)
    time.sleep(37)
    vm.configure(svid_ttl="1h")
    vm.start(controller=False)
    vm.ready()


def test_a_rotation_is_followed_without_a_word(vm: Machine) -> None:
    """Until the first SVID has run out and others were issued in its place."""
    vm.configure(svid_ttl="25s")
    vm.start()
    vm.ready()
    said, began = vm.log().count("condition Identity"), time.monotonic()

    def issued() -> int:
        return vm.log().count("Renewing X509-SVID") + vm.log().count("Creating X509-SVID")

    while time.monotonic() - began < 26 or issued() < 3:
        assert vm.vm.status()["phase"] == "Ready"
        assert time.monotonic() - began < 60, vm.log()
        time.sleep(0.2)
    assert vm.log().count("condition Identity") == said


@pytest.mark.parametrize("wakes", [True, False], ids=["wakes", "hangs"])
def test_expired_while_asleep(vm: Machine, wakes: bool) -> None:
    vm.configure(svid_ttl="12s")
    vm.start()
    vm.ready()
    pids = [vm.pid("spire-server"), vm.pid("spire-agent")]
    for child in ("spire-server", "spire-agent"):
        vm.kill(child, signal.SIGSTOP)
    vm.wait_problem("identity-expiring")
    if wakes:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid or 0, signal.SIGCONT)
    vm.vm.wait(lambda: vm.vm.condition("Identity").get("status") == "True")


@pytest.fixture
def small_disk(vm: Machine) -> Iterator[Machine]:
    state = vm.vm.folder / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "mx", str(state)], check=True)
    try:
        yield vm
    finally:
        for process in vm.vm.processes.values():
            process.kill()
            process.wait()
        subprocess.run(["umount", "-l", str(state)], check=True)


def fill(folder: Path) -> Path:
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return path


def test_a_full_disk_under_a_machine_that_runs(small_disk: Machine) -> None:
    small_disk.configure(svid_ttl="20s")
    small_disk.start()
    small_disk.ready()
    filler = fill(small_disk.vm.folder / "state")
    proxy = small_disk.pid("proxy")
    time.sleep(12)
    assert small_disk.vm.condition("Identity")["status"] == "True"
    assert small_disk.pid("proxy") == proxy
    filler.unlink()
    small_disk.vm.wait(lambda: small_disk.vm.status()["phase"] == "Ready")


def test_a_full_disk_at_the_start(small_disk: Machine) -> None:
    small_disk.start()
    small_disk.ready()
    assert small_disk.vm.stop("harness") == 0
    shutil.rmtree(small_disk.state)
    filler = fill(small_disk.vm.folder / "state")
    small_disk.start(controller=False)
    message = small_disk.wait_problem("spire-failing")
    assert "space" in message.lower() or "full" in message.lower(), message
    filler.unlink()
    small_disk.ready()


def test_no_spire_on_the_machine(vm: Machine) -> None:
    spire = {"server_user": str(SERVER_UID), "agent_user": str(AGENT_UID), "server_path": "/nowhere/spire-server"}
    vm.configure(identity={"spire": spire})
    vm.start()
    assert "looking for /nowhere/spire-server: there is no such program" in vm.wait_problem("spire-failing")


def test_the_port_is_taken(vm: Machine) -> None:
    listener = vm.vm.start(
        "listener", vm.vm.vm, "python3", "-c", "import socket; socket.create_server(('127.0.0.1', 8081)).accept()"
    )
    vm.vm.wait(lambda: ":8081" in vm.vm.vm.run("ss", "-ltnH"))
    vm.start()
    assert "address already in use" in vm.wait_problem("spire-failing")
    told = set()
    while vm.vm.status()["children"]["spire-server"]["restarts"] < 5:
        identity = vm.vm.condition("Identity")
        if identity["problem"] == "spire-failing":
            told.add(str(identity["message"]))
    assert [message for message in told if "no error in its log" in message] == [], "the reason stays while it is tried again"
    listener.kill()
    vm.ready()
