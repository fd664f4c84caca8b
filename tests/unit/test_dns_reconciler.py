"""Split DNS: what it would take away or replace, and what it says while that waits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from harness import dns_text, phrases
from harness.clock import SystemClock
from harness.reconcilers.dns import Dns, Observed, Start, Stop
from harness.reconcilers.dns_own import Known
from harness.reconcilers.dns_resolv_conf import ResolvConf
from harness.specs import DnsSpec, User
from harness.status import Truth
from harness.supervisor import ChildState, State
from harness.system.process import Processes
from harness.values import HostPort

TOLD = DnsSpec("k8s.example", (HostPort("10.96.0.10", 53),), user=User(2105, 2105))
DEFAULT = DnsSpec("cluster.local", TOLD.servers, user=TOLD.user)


def found(folder: Path, state: State) -> tuple[Dns, Observed]:
    """A dnsmasq that was started for TOLD, as the daemon before this one left it."""
    resolv_conf = folder / "resolv.conf"
    resolv_conf.write_text(dns_text.resolv_conf("nameserver 192.0.2.1\n", TOLD))
    front = ResolvConf(resolv_conf, folder / "scratch")
    runners = Processes(folder / "children", lambda name, line: None)
    dns = Dns(runners, (front,), front.name, folder / "dnsmasq.conf", SystemClock(), lambda _: None)
    conf = dns_text.dnsmasq_conf(front.listen, ("192.0.2.1",), TOLD)
    fronts = {front.name: asyncio.run(front.observe())}
    return dns, Observed("/usr/sbin/dnsmasq", conf, ChildState(state), 0.0, fronts, Known())


@pytest.mark.parametrize("wanted", [None, DEFAULT], ids=["the servers were told", "the domain was told"])
def test_what_is_in_use_can_be_kept(tmp_path: Path, wanted: DnsSpec | None) -> None:
    """Neither half of a replacement may be done alone: a second dnsmasq would have no port."""
    dns, observed = found(tmp_path, State.RUNNING)
    actions = dns.diff(wanted, observed)
    assert any(isinstance(action, Stop) for action in actions)
    assert [action for action in actions if not action.removes] == []
    condition = dns.condition(wanted, observed)
    assert (condition.truth, condition.message) == (Truth.UNKNOWN, phrases.LEFT)


def test_what_is_not_in_use_is_started(tmp_path: Path) -> None:
    dns, observed = found(tmp_path, State.STOPPED)
    (start,) = (action for action in dns.diff(DEFAULT, observed) if not action.removes)
    assert isinstance(start, Start)


def test_what_is_right_stays(tmp_path: Path) -> None:
    dns, observed = found(tmp_path, State.RUNNING)
    assert dns.diff(TOLD, observed) == ()
    assert dns.condition(TOLD, observed).truth is Truth.TRUE
