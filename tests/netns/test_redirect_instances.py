"""Two workloads' rules side by side in one kernel: whose connections go where, and that neither touches the other's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import pytest

from harness.rules import Family, Inbound, Outbound, RedirectSpec, rules_for
from harness.system import redirect_selftest
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_backend import detect
from harness.system.redirect_selftest import Outcome
from harness.system.redirect_table import Backend, Marks, TableState
from tests import redirect_support as support
from tests.redirect_support import MESH, NEAR, Arrival, Peer, connect, listening, ports, spec

pytestmark = support.needs_root

KINDS: dict[str, Callable[[Marks], Backend]] = {"nftables": lambda marks: Nftables(marks=marks), "iptables": Iptables}
USER, API_USER, API_PROXY = 2105, 2106, 2203
# What `desired` makes of two configurations; the first's takes all that it can.
FIRST = spec(
    inbound=Inbound.ALL, outbound=Outbound.ALL, ignore_users=(API_PROXY, API_USER), neighbours=(API_PROXY,),
    ignore_inbound_ports=ports("22", "4190-4191", "4240", "4243"),
)  # fmt: skip
API = spec(
    proxy_uid=API_PROXY, inbound_port=4243, outbound_port=4240, inbound_ports=ports("8081"), users=(API_USER,),
    ignore_users=(support.PROXY_UID,), neighbours=(support.PROXY_UID,),
)  # fmt: skip


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with support.machine() as peer, contextlib.ExitStack() as stack:
        stack.enter_context(listening(80, 8080, peer=peer))
        stack.enter_context(listening(8080, 8081))
        stack.enter_context(listening(4140, 4143, uid=support.PROXY_UID))
        stack.enter_context(listening(4240, 4243, uid=API_PROXY))
        yield peer


def replace(backend: Backend, wanted: RedirectSpec | None) -> None:
    asyncio.run(backend.replace(rules_for(wanted) if wanted else ()))


def observe(backend: Backend) -> TableState:
    return asyncio.run(backend.observe())


def assert_each_has_its_own(peer: Peer) -> None:
    for family in Family:
        far, near = MESH[family], NEAR[family]
        assert connect(far, 80, uid=USER) == Arrival(4140, (far, 80))
        assert connect(far, 80, uid=API_USER) == Arrival(4240, (far, 80))
        for proxy in (support.PROXY_UID, API_PROXY):
            assert connect(far, 80, uid=proxy) == Arrival(80, (far, 80)), "no proxy's own connection goes through another"
        assert connect(near, 8080, peer=peer) == Arrival(4143, (near, 8080))
        assert connect(near, 8081, peer=peer) == Arrival(4243, (near, 8081)), "though the first takes every port that is left"
        assert connect(near, 4243, peer=peer) == Arrival(4243, (near, 4243)), "as Linkerd's peers dial it"
        # On the machine itself: a neighbour's proxy comes as a peer does, an application as it always did.
        assert connect(near, 8081, uid=support.PROXY_UID) == Arrival(4243, (near, 8081))
        assert connect(near, 8080, uid=API_PROXY) == Arrival(4143, (near, 8080))
        assert connect(near, 8081, uid=API_PROXY) == Arrival(8081, (near, 8081)), "a proxy reaches its own application"
        assert connect(near, 8081, uid=USER) == Arrival(8081, (near, 8081))


@pytest.mark.parametrize("kind", KINDS)
def test_each_workload_has_its_own_whatever_the_order(kind: str, peer: Peer) -> None:
    first, api = KINDS[kind](Marks()), KINDS[kind](Marks("api"))
    replace(first, FIRST)
    replace(api, API)
    assert_each_has_its_own(peer)
    replace(first, None)
    replace(first, FIRST)
    assert_each_has_its_own(peer)
    for backend, wanted in ((first, FIRST), (api, API)):
        assert observe(backend) == TableState(True, observe(backend).rules), "neither finds the other's strange"
        failed = redirect_selftest.self_test(rules_for(wanted)).having(Outcome.FAILED)
        assert not failed, failed
    assert detect().backend.kind is first.kind, "our own rules are no other firewall's"
    support.sh("iptables-legacy -t nat -A PREROUTING -p tcp --dport 9999 -j REDIRECT --to-ports 9998")
    assert detect().backend.kind.value == "iptables"
    assert detect(marks=Marks("api")).backend.kind is first.kind, "whatever else there is"
    support.sh("iptables-legacy -t nat -F PREROUTING" if kind == "nftables" else "iptables-legacy -t nat -D PREROUTING 3")
    replace(api, None)
    assert not observe(api).present
    assert connect(MESH[Family.IPV4], 80, uid=USER).port == 4140
    assert connect(MESH[Family.IPV4], 80, uid=API_USER).port == 80, "without its own proxy, and never as somebody else"
    replace(first, None)
    assert not observe(first).present


def test_what_ever_was_is_found_by_its_marks(peer: Peer) -> None:
    """For `meshexp cleanup` without a configuration."""
    replace(Nftables(marks=Marks("api")), API)
    replace(Iptables(Marks("x-1")), API)
    assert Nftables().marks() == {Marks("api")}
    assert Iptables().marks() == {Marks("x-1")}
    replace(Nftables(marks=Marks("api")), None)
    replace(Iptables(Marks("x-1")), None)
    assert Nftables().marks() | Iptables().marks() == frozenset()
