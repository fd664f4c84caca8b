"""Beside Docker, firewalld and ufw, the real ones: theirs stays as it is, ours survives or is back within a second."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.reconcilers.redirect import Redirect
from harness.rules import RedirectSpec, rules_for
from harness.system.redirect_backend import Choice, detect
from harness.system.redirect_selftest import Outcome, Report, self_test
from tests import redirect_support as support
from tests.redirect_support import Peer, peer_fixture, sh, spec  # noqa: F401 — a fixture

pytestmark = support.needs_root


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another owner of firewall rules: the daemon that it needs, and its commands, run in its own mount namespace.

    `restarts`: a stop and a start of the daemon bring its rules back as they were, and are tried too.
    """

    program: str
    daemon: str
    ready: str
    start: tuple[str, ...]
    reload: tuple[str, ...]
    stop: tuple[str, ...]
    restarts: bool = False


DOCKER = "docker -H unix:///run/mx.sock"
CREATE = f"{DOCKER} network create --subnet 172.31.0.0/24 -o com.docker.network.bridge.name=mx0 mx"
NEIGHBOURS = {
    "docker": Neighbour(
        "dockerd",
        "exec dockerd --data-root $HOME/data --exec-root $HOME/exec --pidfile $HOME/pid -H unix:///run/mx.sock",
        f"{DOCKER} info",
        (CREATE,),
        (f"{DOCKER} network rm mx", CREATE),
        (f"{DOCKER} network rm mx",),
        restarts=True,
    ),
    "firewalld": Neighbour(
        "firewalld",
        # In the same process group, so that it ends with the rest.
        "mkdir -p /run/dbus; dbus-daemon --system --nofork --nopidfile & "
        "until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done; exec firewalld --nofork --nopid",
        "firewall-cmd --state",
        ("firewall-cmd --add-port=8080/tcp",),
        ("firewall-cmd --reload", "firewall-cmd --complete-reload", "firewall-cmd --add-port=8080/tcp"),
        (),
    ),
    "ufw": Neighbour(
        "ufw",
        "exec sleep 600",
        "true",
        ("ufw allow 22", "ufw --force enable"),
        ("ufw reload",),
        ("ufw --force disable",),
    ),
}
_TRIES = 3
MOUNTS = """
mount -t tmpfs tmpfs /run
touch /run/xtables.lock; mount --bind $HOME/xtables.lock /run/xtables.lock
for folder in /etc/alternatives /etc/ufw /etc/firewalld; do
    [ -d $folder ] || continue
    mkdir -p $HOME$folder; cp -a $folder/. $HOME$folder/; mount --bind $HOME$folder $folder
done
for tool in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    case $tool in *-*) name=${tool%%-*}-$VARIANT-${tool#*-};; *) name=$tool-$VARIANT;; esac
    ln -sf /usr/sbin/$name /etc/alternatives/$tool
done
"""


class Running:
    def __init__(self, neighbour: Neighbour, home: Path, variant: str) -> None:
        self._neighbour = neighbour
        self._environment = os.environ | {"HOME": str(home), "VARIANT": variant}
        self._log = (home / "log").open("wb")
        self._start()

    def _start(self) -> None:
        command = ["unshare", "-m", "--propagation", "private", "sh", "-ec", MOUNTS + self._neighbour.daemon]
        self._process = subprocess.Popen(
            command, env=self._environment, stdout=self._log, stderr=self._log, start_new_session=True
        )
        deadline = time.monotonic() + 30
        while not self._try(self._neighbour.ready):
            assert self._process.poll() is None and time.monotonic() < deadline, Path(self._log.name).read_text()[-2000:]
            time.sleep(0.2)

    def restart(self) -> None:
        """The daemon's: as after `systemctl restart`, it finds its own state again."""
        self._end()
        self._start()

    def _enter(self, command: str) -> list[str]:
        return ["nsenter", f"--target={self._process.pid}", "--mount", "--", "sh", "-ec", command]

    def _try(self, command: str) -> bool:
        return subprocess.run(self._enter(command), capture_output=True, check=False).returncode == 0

    def run(self, *commands: str) -> None:
        """ufw does not wait for the xtables lock, so its commands fail now and then, also without us; its users repeat them."""
        for command in commands:
            for attempt in range(_TRIES):
                done = subprocess.run(self._enter(command), capture_output=True, text=True, check=False, env=self._environment)
                if done.returncode == 0:
                    break
                assert attempt < _TRIES - 1, f"{command}: {done.stdout}{done.stderr}"
                time.sleep(1.0)

    def close(self) -> None:
        self._end()
        self._log.close()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 15)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait(10)


@pytest.fixture(params=list(NEIGHBOURS))
def neighbour(request: pytest.FixtureRequest) -> Neighbour:
    found = NEIGHBOURS[request.param]
    if shutil.which(found.program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{found.program} is not installed: `./setup neighbours`")
        pytest.skip(f"{found.program} is not installed (`./setup neighbours`)")
    return found


def theirs() -> str:
    """Every rule of theirs, without counters, of both worlds."""
    ours = re.compile(r"table inet meshexp \{.*?\n\}\n", re.DOTALL)
    nft = ours.sub("", sh("nft list ruleset"))
    legacy = sh("iptables-legacy-save; ip6tables-legacy-save")
    text = "\n".join(line for line in (nft + legacy).splitlines() if "MESHEXP_" not in line and not line.startswith("#"))
    return re.sub(r"packets \d+ bytes \d+|\[\d+:\d+\]", "", text)


async def keep(redirect: Redirect, wanted: RedirectSpec, busy: asyncio.Lock) -> None:
    """The daemon's cycle: woken by events alone. It may be ended only while it is not `busy`, or it takes its change back."""
    async for _ in redirect.changes():
        async with busy:
            for action in redirect.diff(wanted, await redirect.observe()):
                await redirect.apply(action)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's: the path of containerd's socket must fit into 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="meshexp-") as path:
        yield Path(path)


@pytest.mark.parametrize("kind", ["nftables", "iptables"])
def test_beside(neighbour: Neighbour, kind: str, peer: Peer, folder: Path) -> None:
    variant = {"nftables": "nft", "iptables": "legacy"}[kind]
    wanted = spec()

    async def apply_and_keep(redirect: Redirect, work: Callable[[], None]) -> None:
        for action in redirect.diff(wanted, await redirect.observe()):
            await redirect.apply(action)
        busy = asyncio.Lock()
        keeper = asyncio.create_task(keep(redirect, wanted, busy))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(work)
        deadline = time.monotonic() + 5.0
        while redirect.diff(wanted, await redirect.observe()):
            if keeper.done():
                keeper.result()
            assert time.monotonic() < deadline, "not repaired"
            await asyncio.sleep(0.02)
        async with busy:
            keeper.cancel()

    async def check(running: Running) -> None:
        # Chosen, as a neighbour that uses nftables itself (firewalld) would make `auto` choose nftables.
        redirect = Redirect(await asyncio.to_thread(detect, Choice(kind)), folder / "lock", lambda rules: Report(()))
        before = theirs()
        await apply_and_keep(redirect, lambda: None)
        assert theirs() == before
        await asyncio.to_thread(assert_works)
        for _ in range(_TRIES):
            await apply_and_keep(redirect, lambda: running.run(*neighbour.reload))
            if theirs() == before:
                break
        assert theirs() == before
        await asyncio.to_thread(assert_works)
        if neighbour.restarts:
            await asyncio.to_thread(running.restart)
            assert not redirect.diff(wanted, await redirect.observe()), "nobody repairs them"
            await asyncio.to_thread(assert_has, before)
        await apply_and_keep(redirect, lambda: running.run(*neighbour.stop))
        await asyncio.to_thread(assert_works)
        await apply_and_keep(redirect, lambda: running.run(*neighbour.start))
        again = theirs()
        for action in redirect.diff(None, await redirect.observe()):
            await redirect.apply(action)
        assert theirs() == again
        assert "meshexp" not in sh("nft list ruleset; iptables-legacy-save; ip6tables-legacy-save").lower()

    for table in "raw", "mangle", "nat", "filter", "security":  # so that none joins the dump later
        sh(f"iptables-legacy -t {table} -L -n; ip6tables-legacy -t {table} -L -n")
    # Of its own, or other tests on this machine would hold it now and then.
    lock = folder / "xtables.lock"
    lock.touch()
    os.environ["XTABLES_LOCKFILE"] = str(lock)
    running = Running(neighbour, folder, variant)
    try:
        running.run(*neighbour.start)
        _steady(running, neighbour)
        asyncio.run(check(running))
    finally:
        running.close()
        del os.environ["XTABLES_LOCKFILE"]


def assert_has(before: str) -> None:
    """Theirs as before; a restarted daemon may set it in another order."""
    assert sorted(theirs().splitlines()) == sorted(before.splitlines())
    assert_works()


def _steady(running: Running, neighbour: Neighbour) -> None:
    """Before there is anything of ours: a start of ufw by legacy iptables is now and then incomplete by itself."""
    for _ in range(_TRIES):
        before = theirs()
        running.run(*neighbour.reload)
        if theirs() == before:
            return


def assert_works() -> None:
    report = self_test(rules_for(spec()))
    assert report.having(Outcome.FAILED) == (), "\n".join(map(str, report.checks))
    assert any(check.name == "outbound IPv4" for check in report.having(Outcome.PASSED))
