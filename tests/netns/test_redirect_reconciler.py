"""The reconciler on the real kernel: trial and confirmation, drift by event, no gap for new connections, a busy lock."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
import select
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from harness import problems
from harness.errors import TemporaryError
from harness.reconcilers.redirect import Apply, Observed, Redirect
from harness.rules import Family, Outbound, RedirectSpec, Rules, differences, rules_for
from harness.status import Truth
from harness.system import nfnetlink, redirect_lock
from harness.system.iptables import Iptables
from harness.system.redirect_backend import Choice, detect
from harness.system.redirect_selftest import Check, Outcome, Report, self_test
from tests import redirect_support as support
from tests.redirect_support import (
    KINDS,
    MESH,
    Peer,
    kind_fixture,  # noqa: F401
    listening,
    networks,
    peer_fixture,  # noqa: F401
    ports,
    sh,
    spec,
)

pytestmark = support.needs_root

USER = 2105


async def make(kind: str, lock: Path, test: Callable[[Rules], Report] = self_test) -> Redirect:
    return Redirect(await asyncio.to_thread(detect, Choice(kind)), lock, test)


async def cycle(redirect: Redirect, wanted: RedirectSpec | None) -> Observed:
    """Once around; returns what is then there."""
    for action in redirect.diff(wanted, await redirect.observe()):
        await redirect.apply(action)
    return await redirect.observe()


def test_applied_tested_and_true(kind: str, tmp_path: Path) -> None:
    """The self-test passes in both directions and both families, so the sentence says nothing of `unverified`."""

    async def check() -> None:
        redirect = await make(kind, tmp_path / "lock")
        wanted = spec(ignore_outbound_ports=ports("9"))
        observed = await cycle(redirect, wanted)
        condition = redirect.condition(wanted, observed)
        assert (condition.truth, condition.problem) == (Truth.TRUE, None)
        assert "unverified" not in condition.message
        assert f"{kind}" in condition.message
        assert redirect.diff(wanted, observed) == ()
        assert not any(state.present for state in (await cycle(redirect, None)).tables.values())

    asyncio.run(check())


def test_a_failed_self_test_brings_the_old_rules_back(kind: str, tmp_path: Path) -> None:
    async def check() -> None:
        asked = 0

        def fail(_: Rules) -> Report:
            nonlocal asked
            asked += 1
            return Report((Check("outbound IPv4", Outcome.FAILED, "went to the moon"),))

        await cycle(await make(kind, tmp_path / "lock"), spec(proxy_uid=7))
        redirect = await make(kind, tmp_path / "lock", fail)
        with pytest.raises(TemporaryError, match="went to the moon"):
            await cycle(redirect, spec(proxy_uid=8))
        observed = await redirect.observe()
        condition = redirect.condition(spec(proxy_uid=8), observed)
        assert (condition.truth, condition.problem) == (Truth.FALSE, problems.REDIRECT_REVERTED)
        assert not differences(rules_for(spec(proxy_uid=7)), observed.tables[redirect.kind].rules)
        # Taking the rules back wakes the cycle, which must not try them again at once.
        with pytest.raises(TemporaryError):
            await cycle(redirect, spec(proxy_uid=8))
        assert asked == 1

    asyncio.run(check())


def test_no_confirmation_within_the_time_is_a_failure(kind: str, tmp_path: Path, peer: Peer) -> None:
    """A self-test that hangs: the old rules are back although the process lives."""

    def hang(_: Rules) -> Report:
        time.sleep(1.0)
        return Report(())

    async def check() -> None:
        detected = await asyncio.to_thread(detect, Choice(kind))
        redirect = Redirect(detected, tmp_path / "lock", hang, confirm_seconds=0.4)
        with pytest.raises(TemporaryError, match="not confirmed in time"):
            await cycle(redirect, spec())
        assert not (await redirect.observe()).tables[redirect.kind].rules

    asyncio.run(check())


def test_switching_the_backend_takes_the_others_rules_away(peer: Peer, tmp_path: Path) -> None:
    async def check() -> None:
        for kind in "iptables", "nftables", "iptables":
            redirect = await make(kind, tmp_path / "lock")
            observed = await cycle(redirect, spec())
            assert [k.value for k, state in observed.tables.items() if state.present] == [kind]

    asyncio.run(check())


def test_an_unchanged_apply_writes_nothing(kind: str, tmp_path: Path) -> None:
    async def check() -> None:
        redirect = await make(kind, tmp_path / "lock")
        await cycle(redirect, spec())
        dump = {"nftables": "nft -a list ruleset", "iptables": "iptables-legacy-save -c -t nat | grep -v ^#"}[kind]
        before = sh(dump)
        with nfnetlink.nftables_events() as events:
            for _ in range(3):
                await cycle(redirect, spec())
            assert not select.select([events], [], [], 0.1)[0]
        assert sh(dump) == before

    asyncio.run(check())


def test_drift_is_repaired_by_event(kind: str, tmp_path: Path) -> None:
    async def check() -> None:
        redirect = await make(kind, tmp_path / "lock", lambda rules: Report(()))
        await cycle(redirect, spec())
        changes = redirect.changes()
        woken = asyncio.ensure_future(_first(changes))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(sh, support.FLUSH[kind])
        edited = time.monotonic()
        await asyncio.wait_for(woken, 10)
        observed = await redirect.observe()
        (action,) = redirect.diff(spec(), observed)
        assert isinstance(action, Apply) and action.reasons
        await redirect.apply(action)
        print(f"repaired after {(time.monotonic() - edited) * 1000:.0f} ms: {action.reasons[0]}")
        assert redirect.diff(spec(), await redirect.observe()) == ()

    asyncio.run(check())


async def _first(changes: AsyncIterator[str]) -> str:
    return await anext(changes)


def test_two_at_once_take_turns(kind: str, tmp_path: Path) -> None:
    async def check() -> None:
        one, two = await make(kind, tmp_path / "lock"), await make(kind, tmp_path / "lock")
        await asyncio.gather(cycle(one, spec(proxy_uid=7)), cycle(two, spec(proxy_uid=8)))
        state = (await one.observe()).tables[one.kind]
        assert (state.strange, state.on_trial) == ((), False)
        assert () in [differences(rules_for(spec(proxy_uid=uid)), state.rules) for uid in (7, 8)]

    asyncio.run(check())


def test_waiting_for_another_change_ends(tmp_path: Path) -> None:
    async def check() -> None:
        async with redirect_lock.exclusive(tmp_path / "run" / "lock", 1.0):
            with pytest.raises(TemporaryError, match="under way"):
                async with redirect_lock.exclusive(tmp_path / "run" / "lock", 0.1):
                    pass

    asyncio.run(check())


# Connections until its standard input is closed; a line says that it begins.
LOAD = """
import json, select, socket, sys
seen, failed = {}, 0
print(flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with socket.create_connection((sys.argv[1], 80), timeout=5) as c:
            c.sendall(b"hello")
            port = str(json.loads(c.makefile().read())["port"])
            seen[port] = seen.get(port, 0) + 1
    except OSError:
        failed += 1
print(json.dumps({"seen": seen, "failed": failed}))
"""


def test_during_changes_under_load_no_connection_escapes_or_fails(kind: str, peer: Peer) -> None:
    backend, changes = KINDS[kind](), {"nftables": 50, "iptables": 4}[kind]
    sets = [rules_for(spec(ignore_subnets=networks(f"10.42.{n}.0/24", f"fd42:{n}::/32"))) for n in range(7, 11)]

    async def check() -> None:
        await backend.replace(sets[0])
        argv = ("setpriv", f"--reuid={USER}", "--clear-groups", "/usr/bin/python3", "-c", LOAD)
        loads = [await asyncio.create_subprocess_exec(*argv, MESH[family], stdin=PIPE, stdout=PIPE) for family in Family]
        for load in loads:
            assert load.stdout is not None and await load.stdout.readline()
        for change in range(1, changes + 1):
            new, old = sets[change % 4], sets[(change - 1) % 4]
            if change % 2:
                async with backend.trial(new, old, 10.0) as trial:
                    await trial.confirm()
            else:
                await backend.replace(new)
            await asyncio.sleep(0.01)
        for load in loads:
            result = json.loads((await load.communicate(b""))[0])
            print(kind, result)
            assert result["failed"] == 0
            assert set(result["seen"]) == {"4140"}

    with listening(80, peer=peer), listening(4140, uid=support.PROXY_UID):
        asyncio.run(check())


def test_a_busy_xtables_lock_is_said_and_changes_nothing(peer: Peer, tmp_path: Path) -> None:
    backend, lock = Iptables(), tmp_path / "xtables.lock"
    lock.touch()
    asyncio.run(backend.replace(rules_for(spec(proxy_uid=7))))
    before = asyncio.run(backend.observe())
    os.environ |= {"XTABLES_LOCKFILE": str(lock), "MESHEXP_XTABLES_WAIT": "0.2"}
    try:
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(TemporaryError, match="has held"):
                asyncio.run(backend.replace(rules_for(spec(proxy_uid=8))))
            assert asyncio.run(Iptables().observe()) == before
        asyncio.run(backend.replace(rules_for(spec(proxy_uid=8))))
    finally:
        del os.environ["XTABLES_LOCKFILE"], os.environ["MESHEXP_XTABLES_WAIT"]


def test_nothing_redirected_leaves_no_trace_of_a_self_test(peer: Peer, tmp_path: Path) -> None:
    async def check() -> None:
        redirect = await make("nftables", tmp_path / "lock")
        off = dataclasses.replace(spec(), outbound=Outbound.OFF, inbound_ports=())
        assert redirect.diff(off, await redirect.observe()) == ()

    asyncio.run(check())
