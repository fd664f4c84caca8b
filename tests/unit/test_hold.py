"""When a member holds what is meant for the mesh, what the hold is, and the marker that says that a machine is a member."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
from pathlib import Path

import pytest

from harness.daemon import bring, membership
from harness.desired import desired
from harness.errors import UnwritableError
from harness.messages import ClusterFacts
from harness.packets import Packet, target
from harness.paths import Paths
from harness.reconcilers.routes import Observed
from harness.rules import HOLD_PORT, Hook, Outbound, Rules, held, is_hold, networks_of, rules_for
from harness.specs import ROUTE_PROTOCOL, Route
from harness.values import IPNetwork
from tests import builders
from tests.redirect_support import networks, spec

MEMBER = networks("10.55.0.0/16")


def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "etc", tmp_path / "state", tmp_path / "run")


def to(rules: Rules, destination: str, uid: int = 1000) -> int | None:
    far, near = ipaddress.ip_address(destination), ipaddress.ip_address("10.9.0.2")
    return target(rules, Packet(Hook.OUTBOUND, near, far, 80, "eth0", uid))


@pytest.mark.parametrize("outbound", [Outbound.MESH, Outbound.ALL])
def test_the_hold_refuses_the_mesh_to_all_but_the_proxy_and_nothing_else(outbound: Outbound) -> None:
    rules = rules_for(spec(hold=True, outbound=outbound, ignore_destinations=networks("10.42.0.9/32")))
    assert to(rules, "10.42.0.5") == HOLD_PORT
    assert to(rules, "10.42.0.5", uid=0) == HOLD_PORT
    assert to(rules, "10.42.0.5", uid=2102) is None
    assert to(rules, "10.42.0.9") is None
    assert to(rules, "192.0.2.1") is None
    assert all(rule.hook is Hook.OUTBOUND for rule in rules)
    assert str(rules[-1]).endswith("→ refused")


def test_rules_in_force_become_the_hold_without_a_configuration() -> None:
    wanted = spec(neighbours=(2202,))
    redirect = rules_for(wanted)
    assert to(held(redirect), "10.42.0.5") == HOLD_PORT
    assert held(rules_for(spec())) == rules_for(spec(hold=True))
    assert is_hold(held(redirect)) and not is_hold(redirect) and not is_hold(())
    assert networks_of(redirect) == wanted.outbound_networks
    assert rules_for(dataclasses.replace(wanted, hold=True, outbound=Outbound.OFF)) == ()


@pytest.mark.parametrize(("policy", "member", "holds"), [("closed", (), True), ("closed", None, False), ("open", (), False)])
def test_only_a_member_that_must_not_send_plaintext_holds(policy: str, member: tuple[()] | None, holds: bool) -> None:
    config = builders.config(redirect={"on_proxy_loss": policy})
    progress = builders.progress(proxy_certified=False, redirected=False, member=member)
    want = desired(config, builders.machine(), progress).redirect
    assert (want is not None and want.hold) is holds
    certified = desired(config, builders.machine(), dataclasses.replace(progress, proxy_certified=True)).redirect
    assert certified is not None and not certified.hold


def test_what_the_controller_told_before_is_held_also_when_it_is_lost() -> None:
    progress = builders.progress(proxy_certified=False, redirected=False, member=MEMBER, registration=None)
    want = desired(builders.config(), builders.machine(), progress).redirect
    assert want is not None and set(MEMBER) < set(want.outbound_networks)


def test_controller_and_name_servers_stay_reachable() -> None:
    facts = ClusterFacts(service_cidrs=networks("10.96.0.0/12"))
    machine = dataclasses.replace(builders.machine(), controller_at=(ipaddress.ip_address("10.96.0.7"),))
    config = builders.config(dns={"servers": ["10.96.0.10:53"]})
    progress = builders.progress(
        proxy_certified=False, redirected=False, member=(), registration=builders.registration(facts=facts)
    )
    want = desired(config, machine, progress).redirect
    assert want is not None
    rules = rules_for(want)
    assert to(rules, "10.96.0.8") == HOLD_PORT
    assert (to(rules, "10.96.0.7"), to(rules, "10.96.0.10")) == (None, None)


def test_the_marker_outlives_what_is_written_into_it(tmp_path: Path) -> None:
    where = paths(tmp_path)
    assert membership.kept(where) is None
    membership.keep(where, MEMBER)
    assert membership.kept(where) == MEMBER
    for damaged in ("", "[", '{"networks": 7}', '{"networks": ["x"]}'):
        where.member.write_text(damaged)
        assert membership.kept(where) == (), "still a member"
    asyncio.run(membership.forget(where))
    assert membership.kept(where) is None


def test_a_marker_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    where = paths(tmp_path)
    where.state.write_text("no folder")
    with pytest.raises(UnwritableError):
        membership.keep(where, MEMBER)
    assert where.state.read_text() == "no folder"


@pytest.mark.parametrize("member", [MEMBER, None])
def test_a_network_keeps_its_rule_until_its_route_is_gone(member: tuple[IPNetwork, ...] | None) -> None:
    """The controller tells it no more: its rule must not go before its route, or its traffic would leave in plaintext."""
    progress = builders.progress(member=member)
    want = desired(builders.config(), builders.machine(), progress)
    gone = Route(networks("10.77.0.0/16")[0], ipaddress.ip_address("10.9.0.1"), protocol=ROUTE_PROTOCOL)
    there, after = (bring.with_routed(want, Observed(routes), progress).redirect for routes in ((gone,), ()))
    assert there is not None and after is not None and want.redirect is not None
    assert (gone.network in there.outbound_networks) is (member is not None)
    assert after.outbound_networks == want.redirect.outbound_networks
