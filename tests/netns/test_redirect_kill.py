"""Whoever is killed, and whenever: nobody is locked out, either the old or the new rules are in force, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import TemporaryError
from harness.reconcilers.redirect import Redirect
from harness.rules import Family, Inbound, RedirectSpec, Rules, differences, rules_for
from harness.system.iptables import Iptables
from harness.system.redirect_backend import Choice, detect
from harness.system.redirect_selftest import Report
from harness.system.redirect_table import FIRST, Marks, TableState
from tests import redirect_support as support
from tests.processes import with_words
from tests.redirect_support import KINDS, NEAR, Peer, listening, ports, sh, spec

pytestmark = support.needs_root

RUNS = {"nftables": 200, "iptables": 8}
OLD, NEW = 7, 8
SSH_PORT = 2222


def wanted(uid: int) -> RedirectSpec:
    """All inbound, so that only the exclusion of what sshd listens on keeps the session's port."""
    return spec(proxy_uid=uid, inbound=Inbound.ALL)


def rules(uid: int) -> Rules:
    return rules_for(spec(proxy_uid=uid, inbound=Inbound.ALL, ignore_inbound_ports=ports("22", "2222", "4190-4191", "4567-4568")))


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with support.machine() as peer, listening(4140, 4143, uid=support.PROXY_UID):
        yield peer


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest, peer: Peer) -> Iterator[str]:
    yield request.param
    asyncio.run(KINDS[request.param]().replace(()))


SSHD = f"""
import socket, threading
def serve(c):
    while data := c.recv(1):
        c.sendall(data)
server = socket.create_server(("", {SSH_PORT}))
open("/proc/self/comm", "w").write("sshd")
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
LOGIN = f"""
import socket, sys
held = socket.create_connection(("{NEAR[Family.IPV4]}", {SSH_PORT}), timeout=5)
print("up", flush=True)
for line in sys.stdin:
    held.sendall(b"x"); assert held.recv(1) == b"x"
    with socket.create_connection(("{NEAR[Family.IPV4]}", {SSH_PORT}), timeout=5) as new:
        new.sendall(b"y"); assert new.recv(1) == b"y"
    print("alive", flush=True)
"""


class Session:
    """A simulated SSH session from outside: one connection that must never break, and a new one whenever asked."""

    def __init__(self, peer: Peer) -> None:
        self._sshd = self._start(["/usr/bin/python3", "-c", SSHD], "ready\n")
        self._login = self._start(["ip", "netns", "exec", peer.name, "/usr/bin/python3", "-c", LOGIN], "up\n")

    def _start(self, command: list[str], first: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == first
        return process

    def alive(self) -> bool:
        assert self._login.stdin is not None and self._login.stdout is not None
        self._login.stdin.write("ping\n")
        self._login.stdin.flush()
        return self._login.stdout.readline() == "alive\n"

    def close(self) -> None:
        for process in self._login, self._sshd:
            process.kill()
            process.communicate()


@pytest.fixture
def session(peer: Peer) -> Iterator[Session]:
    session = Session(peer)
    yield session
    session.close()


def change(kind: str, uid: int, lock: Path, self_test: Callable[[Rules], Report] | None = None, marks: Marks = FIRST) -> None:
    """What the daemon does in one cycle."""

    async def cycle() -> None:
        detected = await asyncio.to_thread(detect, Choice(kind), marks=marks)
        redirect = Redirect(detected, lock, self_test) if self_test else Redirect(detected, lock)
        for action in redirect.diff(wanted(uid), await redirect.observe()):
            await redirect.apply(action)

    asyncio.run(cycle())


def fork(work: Callable[[], None]) -> int:
    """A daemon to kill: no start of an interpreter, so that the kill falls within the change."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def kill(pid: int) -> bool:
    """Whether it died of it."""
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def guards() -> list[int]:
    """Guards in this network namespace."""
    own = Path("/proc/thread-self/ns/net").readlink()
    found = []
    for pid in with_words("iptables_guard"):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/ns/net").readlink() == own:
                found.append(pid)
    return found


def settled(kind: str) -> TableState:
    deadline = time.monotonic() + 60
    while guards():
        assert time.monotonic() < deadline, "a guard is left behind"
        time.sleep(0.02)
    return asyncio.run(KINDS[kind]().observe())


def kill_runs(kind: str, session: Session, lock: Path, runs: int) -> dict[str, int]:
    """Changes killed at a random point, each from the same old rules; what came of them, counted. The benchmark uses it too."""
    backend = KINDS[kind]()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    asyncio.run(backend.replace(rules(OLD)))
    started = time.monotonic()
    change(kind, NEW, lock)
    whole = time.monotonic() - started
    outcomes = {"lockouts": 0, "killed": 0, "old": 0, "new": 0, "neither": 0, "trial": 0}
    for _ in range(runs):
        asyncio.run(backend.replace(rules(OLD)))
        pid = fork(lambda: change(kind, NEW, lock))
        time.sleep(whole * chance.uniform(0.0, 1.2))
        if kill(pid):
            outcomes["killed"] += 1
        else:
            whole *= 0.8  # the machine is less busy than it was
        outcomes["lockouts"] += not session.alive()
        state = settled(kind)
        in_force = [name for name, uid in (("old", OLD), ("new", NEW)) if not differences(rules(uid), state.rules)]
        outcomes[in_force[0] if in_force and not state.strange else "neither"] += 1
        outcomes["trial"] += state.on_trial
    outcomes["leftovers"] = leftovers(lock)
    return outcomes


def leftovers(lock: Path) -> int:
    """Lines of ours in any dump after a cleanup by a process that has no configuration and chose no backend."""

    async def clean() -> None:
        redirect = Redirect(await asyncio.to_thread(detect), lock)
        for action in redirect.diff(None, await redirect.observe()):
            await redirect.apply(action)

    asyncio.run(clean())
    left = sh("nft list ruleset; iptables-legacy-save; ip6tables-legacy-save; ip -o link")
    return sum("meshexp" in line.lower() for line in left.splitlines())


def test_killed_at_random_nobody_is_locked_out_and_nothing_is_left(kind: str, session: Session, tmp_path: Path) -> None:
    """200 runs with nftables; fewer with iptables, whose every change takes half a second."""
    outcomes = kill_runs(kind, session, tmp_path / "lock", RUNS[kind])
    print(outcomes)
    assert (outcomes["lockouts"], outcomes["neither"], outcomes["leftovers"]) == (0, 0, 0)
    assert outcomes["killed"] > RUNS[kind] / 4
    assert outcomes["old"] > 0


def test_killed_on_trial_the_old_rules_come_back(kind: str, session: Session, tmp_path: Path) -> None:
    """By the kernel's own timer, within 10 s, or by the guard at once; meanwhile the new ones are in force."""
    backend = KINDS[kind]()
    asyncio.run(backend.replace(rules(OLD)))
    on_trial = tmp_path / "on-trial"

    def stop(_: Rules) -> Report:
        on_trial.touch()
        time.sleep(60)
        return Report(())

    pid = fork(lambda: change(kind, NEW, tmp_path / "lock", stop))
    deadline = time.monotonic() + 10
    while not on_trial.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert _uid_goes_direct(NEW) and not _uid_goes_direct(OLD)
    assert session.alive()
    assert kill(pid)
    while not _uid_goes_direct(OLD):
        assert time.monotonic() < deadline + 12
        time.sleep(0.1)
    assert not _uid_goes_direct(NEW)
    assert session.alive()
    assert not differences(rules(OLD), settled(kind).rules)


def _uid_goes_direct(uid: int) -> bool:
    """Only the proxy's own uid is not redirected; where it goes nobody listens."""
    command = ["setpriv", f"--reuid={uid}", "--clear-groups", "/usr/bin/python3", str(support.ECHO), "connect", "10.42.0.5", "9"]
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_a_full_disk_keeps_no_rules_from_coming_back(session: Session, tmp_path: Path) -> None:
    """Without them what is for the mesh would leave in plaintext."""
    sh(f"mount -t tmpfs -o size=16k tmpfs {tmp_path}")
    try:
        (tmp_path / "lock").touch(0o600)
        with contextlib.suppress(OSError):
            (tmp_path / "full").write_bytes(bytes(1 << 20))
        change("iptables", NEW, tmp_path / "lock")
        assert not differences(rules(NEW), settled("iptables").rules)
    finally:
        sh(f"umount {tmp_path}")


def test_another_workload_takes_back_what_was_killed_in_its_trial(session: Session, tmp_path: Path) -> None:
    """They have one place for the record of a trial, and its own would take that of the first."""
    lock, api = tmp_path / "lock", Marks("api")
    asyncio.run(Iptables().replace(rules(OLD)))

    def kill_all(_: Rules) -> Report:
        for guard in guards():
            os.kill(guard, signal.SIGKILL)
        os._exit(0)

    os.waitpid(fork(lambda: change("iptables", NEW, lock, kill_all)), 0)
    assert not differences(rules(NEW), settled("iptables").rules) and list(tmp_path.glob("*.json"))
    change("iptables", NEW, lock, lambda _: Report(()), api)
    assert not differences(rules(OLD), settled("iptables").rules)
    assert asyncio.run(Iptables(api).observe()).present and not list(tmp_path.glob("*.json"))
    asyncio.run(Iptables(api).replace(()))
    assert leftovers(lock) == 0


def test_the_guard_killed_is_a_failure_that_the_next_cycle_mends(peer: Peer, session: Session, tmp_path: Path) -> None:
    backend = Iptables()
    asyncio.run(backend.replace(rules(OLD)))

    def kill_guard(_: Rules) -> Report:
        for pid in guards():
            os.kill(pid, signal.SIGKILL)
        return Report(())

    with pytest.raises(TemporaryError, match="guard"):
        change("iptables", NEW, tmp_path / "lock", kill_guard)
    assert session.alive()
    assert not differences(rules(OLD), settled("iptables").rules), "nothing that was not tried stays"
    assert not list(tmp_path.glob("*.json")), "nothing brings these rules back later"
    change("iptables", NEW, tmp_path / "lock")
    assert not differences(rules(NEW), settled("iptables").rules)
    assert leftovers(tmp_path / "lock") == 0
