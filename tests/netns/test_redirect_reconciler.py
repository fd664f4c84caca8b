"""The reconciler on the real kernel: trial and self-test, drift by event, no gap for new connections, faults."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
import select
import subprocess
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from harness import problems
from harness.errors import TemporaryError, UnavailableError
from harness.reconcilers.redirect import Apply, Observed, Redirect
from harness.rules import Family, Outbound, RedirectSpec, Rules, differences, rules_for
from harness.status import Truth
from harness.system import nfnetlink, redirect_lock
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_backend import Choice, Detected, detect
from harness.system.redirect_selftest import Check, Outcome, Report, self_test
from harness.system.redirect_table import Backend
from tests import redirect_support as support
from tests.redirect_support import MESH, Peer, listening, networks, ports, sh, spec

pytestmark = support.needs_root

KINDS: dict[str, Callable[[], Backend]] = {"nftables": Nftables, "iptables": Iptables}
USER = 2105


@pytest.fixture
def peer() -> Iterator[Peer]:
    with support.machine() as peer:
        yield peer


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest, peer: Peer) -> str:
    return str(request.param)


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


@pytest.mark.parametrize("serving", [True, False], ids=["proxy-serving", "proxy-down"])
def test_the_self_test_passes_and_the_proxy_notices_nothing(kind: str, serving: bool) -> None:
    asyncio.run(KINDS[kind]().replace(rules_for(spec())))
    servers = [__import__("socket").create_server(("", port)) for port in (4140, 4143)] if serving else []
    report = self_test(rules_for(spec()))
    assert {check.name.partition(" port")[0]: check.outcome for check in report.checks} == {
        name: Outcome.PASSED
        for family in (4, 6)
        for name in (f"outbound IPv{family}", f"outbound IPv{family} of the proxy itself", f"inbound IPv{family}")
    }
    assert any("port 22 untouched" in check.name for check in report.checks)
    assert select.select(servers, [], [], 0.1)[0] == [], "something was accepted"
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("sabotage", "failing"),
    [
        ("nft insert rule inet meshexp outbound ip daddr 10.42.0.0/16 return", "outbound IPv4"),
        ("nft insert rule inet meshexp outbound ip6 daddr fd42::/16 tcp flags syn redirect to :4144", "outbound IPv6"),
        (
            "nft insert rule inet meshexp outbound ip daddr 10.42.0.0/16 tcp flags syn redirect to :4140",
            "outbound IPv4 of the proxy",
        ),
        ("nft insert rule inet meshexp inbound tcp dport 8080 return", "inbound IPv4"),
        (
            "nft insert rule inet meshexp inbound meta nfproto ipv6 tcp flags syn redirect to :4143",
            "inbound IPv6 port 22 untouched",
        ),
    ],
)
def test_the_self_test_sees_what_goes_astray(peer: Peer, sabotage: str, failing: str) -> None:
    asyncio.run(Nftables().replace(rules_for(spec())))
    sh(sabotage)
    failed = [check.name for check in self_test(rules_for(spec())).having(Outcome.FAILED)]
    assert any(name.startswith(failing) for name in failed)


def test_a_firewall_in_the_way_inbound_is_unverified_not_failed(peer: Peer) -> None:
    asyncio.run(Nftables().replace(rules_for(spec())))
    sh(
        "nft add table inet fw",
        "nft 'add chain inet fw in { type filter hook input priority 0; }'",
        "nft add rule inet fw in tcp dport 4143 drop",
    )
    report = self_test(rules_for(spec()))
    assert report.having(Outcome.FAILED) == ()
    assert [check.name for check in report.having(Outcome.UNVERIFIED)] == ["inbound IPv4", "inbound IPv6"]


def test_the_self_test_leaves_nothing(peer: Peer) -> None:
    asyncio.run(Nftables().replace(rules_for(spec())))
    dump = "ip addr; ip -4 route show table all; ip -6 route show table all; ip rule; nft list ruleset"
    before = sh(dump)
    self_test(rules_for(spec()))
    assert _without_times(sh(dump)) == _without_times(before)


def _without_times(text: str) -> list[str]:
    return [line for line in text.splitlines() if "valid_lft" not in line]


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


def test_drift_is_repaired_within_a_second_by_event(kind: str, tmp_path: Path) -> None:
    edit = {"nftables": "nft flush ruleset", "iptables": "iptables-legacy -t nat -F; ip6tables-legacy -t nat -F"}[kind]

    async def check() -> None:
        redirect = await make(kind, tmp_path / "lock", lambda rules: Report(()))
        await cycle(redirect, spec())
        changes = redirect.changes()
        woken = asyncio.ensure_future(_first(changes))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(sh, edit)
        edited = time.monotonic()
        await asyncio.wait_for(woken, 1.0)
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


LOAD = """
import json, socket, sys, time
seen, failed, deadline = {}, 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < deadline:
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
    backend = KINDS[kind]()
    sets = [rules_for(spec(ignore_subnets=networks(f"10.42.{n}.0/24", f"fd42:{n}::/32"))) for n in range(7, 11)]

    async def check() -> int:
        changes = 0
        await backend.replace(sets[0])
        loads = [
            await asyncio.create_subprocess_exec(
                "setpriv", f"--reuid={USER}", "--clear-groups", "/usr/bin/python3", "-c", LOAD, MESH[family], "4", stdout=PIPE
            )
            for family in Family
        ]
        while any(load.returncode is None for load in loads):
            changes += 1
            new, old = sets[changes % 4], sets[(changes - 1) % 4]
            if changes % 2:
                async with backend.trial(new, old, 10.0) as trial:
                    await trial.confirm()
            else:
                await backend.replace(new)
            await asyncio.sleep(0.01)
        for load in loads:
            result = json.loads((await load.communicate())[0])
            print(kind, changes, result)
            assert result["failed"] == 0
            assert set(result["seen"]) == {"4140"}
        return changes

    with listening(80, peer=peer), listening(4140, uid=support.PROXY_UID):
        assert asyncio.run(check()) >= {"nftables": 50, "iptables": 2}[kind]


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


def test_python_iptables_missing_is_no_error_unless_chosen(peer: Peer, tmp_path: Path) -> None:
    """A directory without the library stands for a machine without it."""
    script = "from harness.system.redirect_backend import *; print(detect(Choice(__import__('sys').argv[1])).reason)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    without = ["/usr/bin/python3", "-c", "import sys; sys.modules['iptc'] = None\n" + script]
    sh("iptables-legacy -t nat -A OUTPUT -p tcp --dport 9 -j REDIRECT --to-ports 10")
    chosen = subprocess.run([*without, "auto"], env=environment, capture_output=True, text=True, check=True)
    assert chosen.stdout.startswith("nftables: the legacy nat tables are in use, but python-iptables is not installed")
    refused = subprocess.run([*without, "iptables"], env=environment, capture_output=True, text=True, check=False)
    assert "UnavailableError: python-iptables is not installed" in refused.stderr


def test_without_nf_tables_the_other_backend_is_taken(peer: Peer, tmp_path: Path) -> None:
    detected = detect(Choice.AUTO, nftables=Nftables("libnftables.so.999"))
    assert detected.reason.startswith("iptables (legacy): nftables does not work here (cannot load libnftables.so.999")
    with pytest.raises(UnavailableError, match="libnftables"):
        detect(Choice.NFTABLES, nftables=Nftables("libnftables.so.999"))


def test_a_read_only_root_file_system(kind: str) -> None:
    """Every file system read-only but /proc: rules come and go all the same."""
    script = (
        "import asyncio\nfrom pathlib import Path\n"
        "from harness.reconcilers.redirect import Redirect\nfrom harness.system.redirect_backend import *\n"
        "from tests.redirect_support import spec\n"
        "async def main():\n"
        f"    redirect = Redirect(detect(Choice({kind!r})), Path('/run/meshexp-none/lock'))\n"
        "    for wanted in spec(), None:\n"
        "        for action in redirect.diff(wanted, await redirect.observe()):\n"
        "            await redirect.apply(action)\n"
        "        print([s.present for s in (await redirect.observe()).tables.values()])\n"
        "asyncio.run(main())\n"
    )
    mounts = (
        "mount -o remount,bind,ro /; for m in /run /tmp /dev/shm; do mount -o bind $m $m; mount -o remount,bind,ro $m; done; "
        'exec "$0" "$@"'
    )
    command = ["unshare", "-m", "sh", "-ec", mounts]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [*command, "/usr/bin/python3", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.returncode) == ("[True, False]\n[False, False]\n", 0), run.stderr


NO_NETFILTER = """
import ctypes, struct, sys
def refuse(syscall, argument, values, error):
    code = [(0x20, 0, 0, 0), (0x15, 0, 1 + len(values), syscall), (0x20, 0, 0, 16 + 8 * argument)]
    code += [(0x15, len(values) - n, 0, value) for n, value in enumerate(values)]
    code += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | error)]
    raw = b"".join(struct.pack("HBBI", *one) for one in code)
    buffer = ctypes.create_string_buffer(raw)
    program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
"""
MODULES = {
    # socket(AF_NETLINK, …, NETLINK_NETFILTER): EPROTONOSUPPORT
    "nfnetlink": "refuse(41, 2, [12], 93)",
    # getsockopt(…, IPT_SO_GET_INFO and _ENTRIES): ENOPROTOOPT
    "ip_tables": "refuse(55, 2, [64, 65], 92)",
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers")
@pytest.mark.parametrize(
    ("missing", "choice", "said"),
    [
        ("nfnetlink", "auto", "iptables (legacy): nftables does not work here (this kernel has no netfilter netlink"),
        ("nfnetlink", "nftables", "UnavailableError: this kernel has no netfilter netlink"),
        ("ip_tables", "auto", "nftables: the legacy nat tables are empty"),
        ("ip_tables", "iptables", "UnavailableError: iptables: "),
    ],
)
def test_a_kernel_without_a_module(peer: Peer, missing: str, choice: str, said: str) -> None:
    """The calls answer as such a kernel's do."""
    script = (
        f"{NO_NETFILTER}\n{MODULES[missing]}\n"
        "from harness.system.redirect_backend import *\n"
        f"print(detect(Choice({choice!r})).reason)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(["/usr/bin/python3", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert said in run.stdout + run.stderr


def test_nothing_redirected_leaves_no_trace_of_a_self_test(peer: Peer, tmp_path: Path) -> None:
    async def check() -> None:
        redirect = await make("nftables", tmp_path / "lock")
        off = dataclasses.replace(spec(), outbound=Outbound.OFF, inbound_ports=())
        assert redirect.diff(off, await redirect.observe()) == ()

    asyncio.run(check())


def test_the_pair_names_each_backend_once() -> None:
    detected = Detected(Nftables(), Iptables(), "")
    assert {detected.backend.kind, detected.other.kind} == set(type(detected.backend.kind))
