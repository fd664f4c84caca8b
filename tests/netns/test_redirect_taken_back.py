"""Rules of a trial that nobody could take back at once."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from harness import problems
from harness.errors import HarnessError, TemporaryError
from harness.rules import Rules, differences, rules_for
from harness.status import Truth
from harness.system.redirect_selftest import Check, Outcome, Report
from harness.system.redirect_table import NotRestoredError
from tests import redirect_support as support
from tests.netns.test_redirect_reconciler import cycle, make
from tests.redirect_support import (
    Peer,
    kind_fixture,  # noqa: F401
    peer_fixture,  # noqa: F401
    spec,
)

pytestmark = support.needs_root


def test_rules_that_failed_and_could_not_be_taken_back_at_once_are_taken_back_later(peer: Peer, tmp_path: Path) -> None:
    """They are as wanted, so that nothing else would ever touch them again; and nothing says that the old ones are back."""
    old, lock = rules_for(spec(proxy_uid=7)), tmp_path / "xtables.lock"
    lock.touch()

    async def check() -> None:
        with lock.open() as held:

            def test(rules: Rules) -> Report:
                fcntl.flock(held, fcntl.LOCK_EX)  # another program has it, and keeps it
                return Report((Check("outbound IPv4", Outcome.FAILED, "gone astray"),))

            redirect = await make("iptables", tmp_path / "lock", test)
            await redirect._detected.backend.replace(old)
            with pytest.raises(NotRestoredError, match="could not be put back: iptables: another program has held"):
                await cycle(redirect, wanted)
            observed = await redirect.observe()
            condition = redirect.condition(wanted, observed)
            assert condition.problem is problems.REDIRECT_FAILED and "could not be put back" in condition.message
            assert differences(rules_for(wanted), observed.tables[redirect.kind].rules) == (), "the ones that failed"
        with pytest.raises(TemporaryError, match="gone astray"):
            await cycle(redirect, wanted)
        observed = await redirect.observe()
        assert differences(old, observed.tables[redirect.kind].rules) == ()
        assert redirect.condition(wanted, observed).problem is problems.REDIRECT_REVERTED
        assert not any(kept.exists() for kept in tmp_path.glob("*.json"))

    wanted = spec(proxy_uid=8)
    os.environ |= {"XTABLES_LOCKFILE": str(lock), "MESHEXP_XTABLES_WAIT": "0.2"}
    try:
        asyncio.run(check())
    finally:
        del os.environ["XTABLES_LOCKFILE"], os.environ["MESHEXP_XTABLES_WAIT"]


def test_what_another_left_of_its_trial_stops_no_removal(kind: str, tmp_path: Path) -> None:
    """Only a trial with iptables needs the place of that record."""
    lock = tmp_path / "lock"
    (tmp_path / "redirect-trial.json").mkdir()  # nobody can read it

    async def check() -> None:
        redirect = await make(kind, lock)
        wanted = spec()
        if kind == "nftables":
            assert redirect.condition(wanted, await cycle(redirect, wanted)).truth is Truth.TRUE
        else:
            with pytest.raises(HarnessError, match=r"redirect-trial\.json"):
                await cycle(redirect, wanted)
            await redirect._detected.backend.replace(rules_for(wanted))
        assert not any(state.present for state in (await cycle(redirect, None)).tables.values())

    asyncio.run(check())
