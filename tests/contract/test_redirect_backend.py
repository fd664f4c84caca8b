"""One suite for both firewall backends, on the real kernel."""

from __future__ import annotations

import asyncio
import subprocess
import time

import pytest
from hypothesis import Phase, given, settings

from harness.errors import HarnessError, TemporaryError, UnavailableError
from harness.rules import Family, RedirectSpec, Rules, differences, for_family, rules_for
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_table import TableState
from tests import redirect_support as support
from tests.contract.redirect_network import assert_holds, network, observe, replace  # noqa: F401 — a fixture
from tests.redirect_support import KINDS, networks, ports, rule_sets, sh, spec, specs

pytestmark = support.needs_root
TOOLS = {"nftables": ("nft -f -",), "iptables": ("iptables-legacy-restore --noflush", "ip6tables-legacy-restore --noflush")}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_apply_then_observe_gives_the_same_records_nftables() -> None:
    backend = Nftables()

    @settings(max_examples=100)
    @given(rule_sets())
    def check(rules: Rules) -> None:
        replace(backend, rules)
        assert_holds(backend, rules)

    check()


def test_apply_then_observe_gives_the_same_records_iptables() -> None:
    """Fewer examples: each takes four processes. No shrinking, for the same reason."""
    backend = Iptables()

    @settings(max_examples=6, phases=[Phase.explicit, Phase.reuse, Phase.generate])
    @given(specs)
    def check(wanted: RedirectSpec) -> None:
        rules = rules_for(wanted)
        replace(backend, rules)
        assert_holds(backend, rules)

    check()


def test_the_printed_text_piped_to_the_tool_gives_the_same_table(kind: str) -> None:
    """From nothing, over other rules, and back to nothing."""
    wanted = [
        rules_for(spec(ignore_subnets=networks("10.42.3.0/24", "fd42:3::/32"), ignore_interfaces=("docker0", "veth*"))),
        rules_for(spec(ignore_inbound_ports=ports(*(str(n) for n in range(1000, 1060, 2))), ipv6=False)),
        (),
    ]
    for rules in wanted:
        backend = KINDS[kind]()
        observe(backend)
        text = backend.render_text(rules)
        for tool in TOOLS[kind]:
            sh(tool, text=text)
        by_tool = _dump(kind)
        assert_holds(KINDS[kind](), rules)
        replace(backend, rules)
        assert _dump(kind) == by_tool


def _dump(kind: str) -> str:
    commands = {"nftables": "nft list ruleset", "iptables": "iptables-legacy-save -t nat; ip6tables-legacy-save -t nat"}
    return "\n".join(line for line in sh(commands[kind]).splitlines() if not line.startswith("#"))


def test_nothing_is_left_after_removal(kind: str) -> None:
    before = _dump(kind)
    backend = KINDS[kind]()
    replace(backend, rules_for(spec()))
    assert observe(backend).present
    replace(backend, ())
    assert observe(backend) == TableState()
    assert _dump(kind) == before
    replace(backend, ())


def test_a_confirmed_trial_stays(kind: str) -> None:
    backend, new = KINDS[kind](), rules_for(spec())

    async def check() -> None:
        async with backend.trial(new, (), 10.0) as trial:
            await trial.confirm()

    asyncio.run(check())
    assert_holds(backend, new)


def test_leaving_a_trial_brings_the_old_rules_back(kind: str) -> None:
    backend, old = KINDS[kind](), rules_for(spec(proxy_uid=7))
    replace(backend, old)

    async def check() -> None:
        async with backend.trial(rules_for(spec()), old, 10.0):
            raise TemporaryError("the self-test failed")

    with pytest.raises(TemporaryError, match="self-test"):
        asyncio.run(check())
    assert_holds(backend, old)


def test_a_late_confirmation_is_none(kind: str) -> None:
    backend, old = KINDS[kind](), rules_for(spec(proxy_uid=7))
    replace(backend, old)

    async def check() -> None:
        async with backend.trial(rules_for(spec()), old, 0.3) as trial:
            await asyncio.sleep(0.6)
            await trial.confirm()

    with pytest.raises(TemporaryError, match="not confirmed in time"):
        asyncio.run(check())
    assert_holds(backend, old)


EDITS = {
    "nftables": {
        "a rule added": "nft add rule inet meshexp outbound counter accept",
        "a rule of another shape": "nft insert rule inet meshexp inbound tcp sport 5 return",
        "the rules flushed": "nft flush table inet meshexp",
        "a chain flushed": "nft flush chain inet meshexp outbound",
        "a chain added": "nft add chain inet meshexp x",
        "a set added": "nft 'add set inet meshexp s { type inet_service; }'",
        "the table deleted": "nft delete table inet meshexp",
        "the whole ruleset flushed": "nft flush ruleset",
        "an element of a network list": "nft insert rule inet meshexp outbound ip daddr 10.42.9.0/24 return comment '\"x\"'",
    },
    "iptables": {
        "a rule added": "iptables-legacy -t nat -A MESHEXP_OUTBOUND -j ACCEPT",
        "a rule of another shape": "ip6tables-legacy -t nat -I MESHEXP_INBOUND -p tcp --sport 5 -j RETURN",
        "one rule gone": "iptables-legacy -t nat -D MESHEXP_OUTBOUND 1",
        "one rule gone of IPv6": "ip6tables-legacy -t nat -D MESHEXP_OUTBOUND 1",
        "a chain flushed": "iptables-legacy -t nat -F MESHEXP_OUTBOUND",
        "a jump gone": "iptables-legacy -t nat -F OUTPUT",
        "a jump doubled": "iptables-legacy -t nat -A OUTPUT -j MESHEXP_OUTBOUND",
        "another rule before the jump": "iptables-legacy -t nat -I OUTPUT -p tcp -j ACCEPT",
        "a chain of our name added": "iptables-legacy -t nat -N MESHEXP_X",
        "everything flushed": "iptables-legacy -t nat -F; iptables-legacy -t nat -X",
    },
}


@pytest.mark.parametrize(("kind_", "edit"), [(kind_, edit) for kind_, edits in EDITS.items() for edit in edits])
def test_every_edit_is_seen_and_undone(kind_: str, edit: str) -> None:
    backend, rules = KINDS[kind_](), rules_for(spec())
    replace(backend, rules)
    assert_holds(backend, rules)
    sh(EDITS[kind_][edit])
    state = observe(backend)
    assert not state.present or state.strange or differences(rules, state.rules)
    replace(backend, rules)
    assert_holds(backend, rules)
    replace(backend, ())
    assert observe(backend) == TableState()


def test_counters_are_no_edit(kind: str) -> None:
    backend, rules = KINDS[kind](), rules_for(spec(outbound_networks=networks("127.0.0.0/8")))
    replace(backend, rules)
    before = observe(backend)
    subprocess.run(["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9"], check=False, stderr=subprocess.DEVNULL)
    assert observe(backend) == before


def test_others_rules_are_untouched(kind: str) -> None:
    for family in "iptables", "ip6tables":
        sh(f"{family}-legacy -t nat -N THEIRS; {family}-legacy -t nat -A THEIRS -p tcp --dport 9 -j REDIRECT --to-ports 10")
        sh(f"{family}-legacy -t nat -A OUTPUT -j THEIRS; {family}-legacy -t nat -A POSTROUTING -j MASQUERADE")
    sh(
        "nft add table ip theirs; nft add chain ip theirs c '{ type nat hook output priority -100; }'",
        "nft add rule ip theirs c counter",
    )
    before = _dump("nftables"), _dump("iptables")
    backend = KINDS[kind]()
    replace(backend, rules_for(spec()))
    replace(backend, rules_for(spec(proxy_uid=7)))
    replace(backend, ())
    assert (_dump("nftables"), _dump("iptables")) == before


def test_changes_are_announced(kind: str) -> None:
    backend, rules = KINDS[kind](), rules_for(spec())
    replace(backend, rules)

    async def check() -> str:
        changes = backend.changes()
        told = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.1)
        assert not told.done()
        await asyncio.to_thread(sh, next(iter(EDITS[kind].values())))
        return await asyncio.wait_for(told, 10)

    sentence = asyncio.run(check())
    assert {"nftables": "changed by nft (pid", "iptables": "xtables.lock"}[kind] in sentence


def test_changes_are_announced_again_and_again(kind: str) -> None:
    """Also when several come while the last is being dealt with; and waiting costs no processor time."""
    backend = KINDS[kind]()
    replace(backend, rules_for(spec()))
    touch = {"nftables": "nft add rule inet meshexp outbound counter", "iptables": "iptables-legacy -t nat -L -n >/dev/null"}[
        kind
    ]

    async def check() -> float:
        changes = backend.changes()
        for _ in range(3):
            told = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(sh, *[touch] * 5)
            await asyncio.wait_for(told, 10)
            await asyncio.to_thread(sh, *[touch] * 5)
        await asyncio.sleep(0.5)
        busy = time.process_time()
        await asyncio.sleep(1)
        return time.process_time() - busy

    assert asyncio.run(check()) < 0.25


def test_other_tables_changes_are_not_announced() -> None:
    async def check() -> None:
        told = asyncio.ensure_future(anext(Nftables().changes()))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(sh, "nft add table ip theirs; nft delete table ip theirs")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(told, 0.3)

    asyncio.run(check())


def test_two_at_once_leave_one_whole_rule_set(kind: str) -> None:
    """In each family: the reconciler's lock is what keeps the families together."""
    one, two = rules_for(spec(proxy_uid=1)), rules_for(spec(proxy_uid=2))
    first, second = KINDS[kind](), KINDS[kind]()

    async def race() -> None:
        for _ in range({"nftables": 100, "iptables": 2}[kind]):
            await asyncio.gather(first.replace(one), second.replace(two))

    asyncio.run(race())
    state = observe(KINDS[kind]())
    assert state.strange == ()
    for family in Family:
        assert for_family(state.rules, family) in (for_family(one, family), for_family(two, family))


def test_a_library_that_is_missing_is_named() -> None:
    backend = Nftables("libnftables.so.999")
    assert observe(backend) == TableState()
    with pytest.raises(UnavailableError, match=r"libnftables\.so\.999"):
        replace(backend, rules_for(spec()))


def test_what_the_kernel_refuses_leaves_the_old_rules() -> None:
    backend, rules = Nftables(), rules_for(spec())
    replace(backend, rules)
    with pytest.raises(HarnessError):
        asyncio.run(backend.run("add rule inet meshexp outbound accept\nadd rule inet meshexp nowhere accept\n"))
    assert_holds(backend, rules)
